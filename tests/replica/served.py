"""A replica on the test's event loop, and callers over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cloudpickle

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import DeploymentSpec, InitializeReply, ReplicaSpec
from headrace.engine.listeners import listen_unix
from headrace.replica.lifecycle import Lifecycle
from headrace.replica.service import ReplicaService
from headrace.router.headers import CallHeader, decode_error, encode
from headrace.router.replica_context import set_current_replica
from headrace.wire import codec, frames
from headrace.wire.callee import Listener, listen
from headrace.wire.caller import CallerConnection, connect
from headrace.wire.rpc import RpcService
from wire.conditions import until
from wire.connected import SECRET, Recorded


class Answered(Recorded):
    """A call whose answer is read as a replica's."""

    async def outcome(self) -> tuple[str, Any]:
        """("value", it), ("error", (kind, message)) or ("reject", None)."""
        async with asyncio.timeout(20):
            how = await self.ended
        if how == "response":
            return "value", codec.decode(self.flags, self.payloads[0])
        if how == "error":
            described = decode_error(self.events[-1][1][4:])
            return "error", (described.kind, described.message)
        return how, None

    async def value(self) -> Any:
        how, value = await self.outcome()
        assert how == "value", (how, value)
        return value

    async def error(self) -> tuple[str, str]:
        how, value = await self.outcome()
        assert how == "error", (how, value)
        return value  # type: ignore[no-any-return]


class Caller:
    def __init__(self, connection: CallerConnection) -> None:
        self.connection = connection
        self.capacity = 0
        connection.on_capacity = self._has_capacity

    def _has_capacity(self) -> None:
        self.capacity += 1

    def call(self, method: str = "__call__", *args: Any, flags: int = 0, **header: Any) -> Answered:
        call = Answered()
        encoded, payload = codec.encode((args, {}))
        self.connection.call(call, encoded | flags, encode(CallHeader(method, "request", **header)), payload)
        return call

    def stream(self, method: str, *args: Any) -> Answered:
        return self.call(method, *args, flags=frames.STREAM)

    async def has_asked(self) -> None:
        """Until the replica has taken all that was sent before: it answers this one at once."""
        call = self.call("no such method", timeout_s=0.0)
        await call.ended


class Replica:
    def __init__(self, folder: Path, target: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.path = folder / "replica.sock"
        self.given = DeploymentOptions(name="Model", **options).model_dump(mode="json")
        self.spec = ReplicaSpec(
            replica_id="Model-0",
            deployment=DeploymentSpec(
                app="app",
                name="Model",
                options=self.given,
                code=cloudpickle.dumps((target, args, {})),
                version="1",
            ),
            route_prefix=None,
        )
        self.lifecycle = Lifecycle("Model-0", "app", "Model")
        self.service: ReplicaService
        self.listener: Listener
        self.callers: list[Caller] = []
        self.reply: InitializeReply

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.service = ReplicaService(loop, "app", "Model", RpcService(self.lifecycle.handlers()))
        self.lifecycle.service = self.service
        self.listener = await listen(listen_unix(self.path), SECRET, self.service)
        self.reply = await self.lifecycle.initialize(self.spec)

    async def caller(self) -> Caller:
        caller = Caller(await connect(str(self.path), SECRET))
        self.callers.append(caller)
        return caller

    @property
    def instance(self) -> Any:
        return self.service.user_code.instance

    async def idle(self) -> None:
        await until(lambda: self.service.ongoing == 0)

    async def stop(self) -> None:
        for caller in self.callers:
            caller.connection.abort()
        self.listener.close()
        if self.service.worker is not None:
            self.service.worker.close()
        await until(lambda: not self.listener.connections)
        set_current_replica(None)
