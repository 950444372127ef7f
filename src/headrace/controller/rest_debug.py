"""What a live process is at, over the REST API: the stacks of its threads and asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.config.problems import nearest
from headrace.controller.controller import Controller
from headrace.controller.health import is_stopped
from headrace.controller.spec_reading import PROCESS_PREFIX
from headrace.engine.process import ProcessInfo
from headrace.observe.stacks import ProcessStacks, process_stacks
from headrace.wire.errors import RpcError, WireError
from headrace.wire.rpc import ask

ANSWER_WITHIN_S = 5.0


class DebugApi:
    """The endpoints. A process that does not answer in time gives a 504 that says why, as far as the system tells."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.routes = [
            Route("/api/headrace/replicas/{id:path}/stacks", self.replica, methods=["GET"]),
            Route("/api/headrace/proxies/{name}/stacks", self.proxy, methods=["GET"]),
            Route("/api/headrace/controller/stacks", self.controller, methods=["GET"]),
        ]

    async def controller(self, request: Request) -> Response:
        return _answer(process_stacks(asyncio.get_running_loop()))

    async def replica(self, request: Request) -> Response:
        """Of the replica with this id. It is answered by a thread beside its event loop."""
        replica_id: str = request.path_params["id"]
        processes = [each for each in await self._controller.engine.list() if each.role == "replica"]
        info = _named(f"{PROCESS_PREFIX}{replica_id}", processes, "replica", PROCESS_PREFIX)
        return await self._asked(info, info.vitals, f"replica {replica_id}")

    async def proxy(self, request: Request) -> Response:
        """Of a proxy on the machine of the controller."""
        name: str = request.path_params["name"]
        processes = [each for each in await self._controller.engine.list() if each.role == "proxy"]
        info = _named(name, processes, "proxy", "")
        socket = self._controller.session_dir / f"{name}.vitals"
        if not socket.exists():
            raise HTTPException(404, f"{name} cannot be asked from the machine that the controller runs on")
        return await self._asked(info, str(socket), name)

    async def _asked(self, info: ProcessInfo, address: str, called: str) -> Response:
        engine = self._controller.engine
        before = await engine.inspect(info.name)
        if is_stopped(before):
            return _silent(f"{called} is stopped by a signal (SIGSTOP): nothing in it runs")
        try:
            stacks: ProcessStacks = await ask(
                address,
                self._controller.secret,
                "stacks",
                type=ProcessStacks,
                connect_within_s=ANSWER_WITHIN_S,
                timeout_s=ANSWER_WITHIN_S,
            )
        except RpcError as error:
            return _silent(f"{called} does not tell: {error}")
        except (OSError, WireError) as error:  # a `TimeoutError` is an OSError
            after = await engine.inspect(info.name)
            if after is None:
                return _silent(f"{called} has ended")
            if isinstance(error, FileNotFoundError):
                return _silent(f"{called} is starting, and does not listen yet")
            if before is not None and after.cpu_s - before.cpu_s > ANSWER_WITHIN_S / 20:
                why = "it takes CPU time all the while: code in C keeps the interpreter's lock"
            else:
                why = "it takes no CPU time: code in C waits, and keeps the interpreter's lock"
            return _silent(f"{called} does not answer within {ANSWER_WITHIN_S:g} s; {why}")
        return _answer(stacks)


def _named(name: str, processes: Sequence[ProcessInfo], kind: str, prefix: str) -> ProcessInfo:
    found = {each.name: each for each in processes}
    if name in found:
        return found[name]
    meant = nearest(name, found)
    hint = f"; did you mean '{meant.removeprefix(prefix)}'?" if meant else ""
    raise HTTPException(404, f"there is no {kind} '{name.removeprefix(prefix)}' with a process{hint}")


def _answer(stacks: ProcessStacks) -> Response:
    return Response(msgspec.json.encode(stacks), media_type="application/json")


def _silent(why: str) -> Response:
    return JSONResponse({"error": why}, status_code=504)
