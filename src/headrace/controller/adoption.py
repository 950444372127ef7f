"""After a controller has started again: which of the processes that run are whose. None of them restarts."""

from __future__ import annotations

import asyncio
import logging
import signal

from headrace.config.spec import DrainRequest
from headrace.controller.applications import Applications
from headrace.engine.process import ProcessInfo
from headrace.engine.protocol import Engine
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.controller")

ADOPT_ALL_S = 10.0
"""After so long routers are told of the replicas that have been found; the others join when they answer."""

STRAY_GRACE_S = 20.0


async def adopt_all(applications: Applications, engine: Engine, secret: bytes) -> None:
    """Hand every running replica to its deployment. Those that belong to none are drained and ended meanwhile.

    Processes that build applications are ended at once: nobody waits for them any more, and what they build is built
    again.
    """
    adoptions = []
    for info in await engine.list():
        if info.role == "builder":
            await engine.kill(info.name, signal.SIGKILL)
            engine.release(info.name)
        if info.role != "replica":
            continue
        manager = applications.manager(str(info.args.get("app")), str(info.args.get("deployment")))
        if manager is None:
            _strays.add(task := asyncio.create_task(_end_stray(info, engine, secret)))
            task.add_done_callback(_strays.discard)
        else:
            adoptions.append(asyncio.create_task(manager.adopt(info)))
    if not adoptions:
        return
    done, _ = await asyncio.wait(adoptions, timeout=ADOPT_ALL_S)
    for task in done:
        if task.exception() is not None:
            logger.error("a running replica could not be adopted", exc_info=task.exception())
    logger.info("found %d running replicas", len(done))


_strays: set[asyncio.Task[None]] = set()


async def _end_stray(info: ProcessInfo, engine: Engine, secret: bytes) -> None:
    logger.info("ending %s: nothing wants it any more", info.name)
    if info.address:
        try:
            client = await RpcClient.connect(info.address, secret)
            try:
                request = DrainRequest(wait_loop_s=1.0, timeout_s=STRAY_GRACE_S)
                await client.call("drain", request, timeout_s=STRAY_GRACE_S + 1.0)
            finally:
                client.close()
        except (OSError, WireError) as error:
            logger.debug("%s could not be drained: %s", info.name, error)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not await engine.kill(info.name, sent):
            break
        await asyncio.sleep(1.0)
    engine.release(info.name)
