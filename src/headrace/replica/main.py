"""The process of one replica."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import uvloop

from headrace.exceptions import HeadraceError
from headrace.observe import tracing
from headrace.observe.log_files import LoggedProcess
from headrace.observe.logs import ProcessLog, configure_logging, end_logging
from headrace.replica.autoscaling_stats import StatsReporter
from headrace.replica.lifecycle import Lifecycle
from headrace.replica.loop_watch import LoopWatch, warning_threshold_s
from headrace.replica.metrics import ReplicaMetrics
from headrace.replica.observed import ReplicaObserved
from headrace.replica.service import ReplicaService
from headrace.replica.vitals import LoopProbe, serve_vitals
from headrace.router.context import current
from headrace.router.hub import RouterHub, set_hub
from headrace.router.loaded_models import set_models_listener
from headrace.wire.callee import listen
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcService
from headrace.wire.shm import shared_folder

if TYPE_CHECKING:
    from headrace.engine.process import ProcessContext

logger = logging.getLogger("headrace.replica")

_CLOSE_TIMEOUT_S = 5.0

_LAST_ANSWERS_S = 1.0
"""How long answers that are in flight may take when user code has said that it can serve no more."""


def main(process: ProcessContext) -> None:
    """Serve until told to end. `process.args`: `app`, `deployment`, `replica_id`."""
    status = uvloop.run(_serve(process))
    tracing.end_tracing()
    end_logging()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the user's that nobody joins must not keep the process.
    process.leave(status)


async def _serve(process: ProcessContext) -> int:
    args = process.args
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    logged = LoggedProcess("replica", args["replica_id"].rpartition("#")[2], args["app"], args["deployment"])
    log_folder = process.session_dir / "logs"

    def configure(config: dict[str, Any] | None) -> ProcessLog:
        return configure_logging(logged, config, log_folder, current=current, capture=True)

    log = configure(args.get("logging"))
    tracing.begin_tracing(args.get("tracing"), args["replica_id"], args["replica_id"])
    folder = shared_folder(process.session_dir.name)
    shared = SharedMemory(folder) if folder is not None else None
    hub = RouterHub(str(process.session_dir / "controller.sock"), process.secret, shared)
    set_hub(hub)

    def end_when_told() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)

    async def end() -> None:
        await lifecycle.finish(_LAST_ANSWERS_S)
        stop.set()

    ending: set[asyncio.Task[None]] = set()

    def on_failure(_: str) -> None:
        loop.call_soon_threadsafe(lambda: ending.add(loop.create_task(end())))

    # Until then a signal just ends it: a constructor may block the loop for minutes, and there is nothing to clean up.
    lifecycle = Lifecycle(args["replica_id"], args["app"], args["deployment"], end_when_told, on_failure)
    service = ReplicaService(loop, args["app"], args["deployment"], RpcService(lifecycle.handlers()))
    lifecycle.service = service
    lifecycle.configure_logging = configure
    service.log_calls(log)
    lifecycle.stats = StatsReporter(args["replica_id"], hub.controller)
    _report_models(hub, args["replica_id"])
    wire = process.listeners["wire"]
    probe = LoopProbe(loop)
    metrics = ReplicaMetrics(args["app"], args["deployment"], args["replica_id"], service, probe, hub)
    serve_vitals(
        process.session_dir / _vitals_name(wire.getsockname()),
        process.secret,
        args["replica_id"],
        probe,
        lambda: lifecycle.phase,
        lambda: lifecycle.ongoing,
        metrics.families,
        watch=_block_watch(loop, service),
        **ReplicaObserved(service, hub).handlers(),
    )
    # Where there are other machines: callers there have their way in beside those of this machine.
    between_machines = [process.listeners["tcp"]] if "tcp" in process.listeners else []
    listener = lifecycle.listener = await listen(wire, process.secret, service, shared, also=between_machines)
    await stop.wait()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await lifecycle.close()
    except Exception as error:
        logger.warning("cleaning up failed: %s: %s", type(error).__name__, error)
    listener.close()
    if shared is not None:
        shared.pool.close()
    return 1 if ending else 0


def _vitals_name(socket_path: Any) -> str:
    return os.path.basename(os.fsdecode(socket_path)).removesuffix(".sock") + ".vitals"


def _block_watch(
    loop: asyncio.AbstractEventLoop, service: ReplicaService
) -> Callable[[], Coroutine[Any, Any, None]] | None:
    """What warns of code that blocks this thread's event loop; None where nobody wants to know."""
    threshold_s = warning_threshold_s()
    return None if threshold_s is None else LoopWatch(loop, threading.get_ident(), service, threshold_s).watch


def _report_models(hub: RouterHub, replica_id: str) -> None:
    """Tell the controller which multiplexed models are loaded, whenever that changes."""
    pending: set[asyncio.Task[None]] = set()

    async def report(model_ids: list[str]) -> None:
        try:
            controller = await hub.controller()
            await controller.call("report_models", {"replica_id": replica_id, "model_ids": model_ids}, timeout_s=5)
        except (WireError, HeadraceError, TimeoutError) as error:
            logger.debug("the controller did not take the list of models: %s", error)

    def changed(model_ids: list[str]) -> None:
        def start() -> None:
            task = hub.loop.create_task(report(model_ids))
            pending.add(task)
            task.add_done_callback(pending.discard)

        hub.loop.call_soon_threadsafe(start)

    set_models_listener(changed)
