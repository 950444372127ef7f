"""A controller that only keeps and tells what a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from headrace.config.spec import DeploymentTargets, WatchRequest, WatchUpdate
from headrace.engine.listeners import listen_unix
from headrace.wire.callee import Listener
from headrace.wire.rpc import RpcServer
from wire.conditions import until

SECRET = b"s" * 32


class FakeController:
    """Keeps what it is told under versions, and tells watchers; can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "controller.sock"
        self.values: dict[str, tuple[int, Any]] = {}
        self.asked: list[dict[str, int]] = []
        self.watching = 0
        self.break_watches = 0
        self._changed = asyncio.Condition()
        self._listener: Listener | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = await RpcServer({"watch": self.watch, "ping": self.ping}).start(listen_unix(self.path), SECRET)

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
            for connection in list(self._listener.connections):
                connection.abort()
            await until(lambda: self._listener is not None and not self._listener.connections)
            self._listener = None

    async def ping(self) -> str:
        return "pong"

    async def watch(self, body: WatchRequest) -> AsyncIterator[WatchUpdate]:
        self.asked.append(dict(body.versions))
        known = dict(body.versions)
        if self.break_watches:
            self.break_watches -= 1
            raise RuntimeError("a bug in the controller")
        self.watching += 1
        try:
            while True:
                for key in known:
                    version, value = self.values.get(key, (0, None))
                    if version > known[key]:
                        known[key] = version
                        yield WatchUpdate(key=key, version=version, value=msgspec.Raw(msgspec.msgpack.encode(value)))
                async with self._changed:
                    if all(self.values.get(key, (0, None))[0] <= known[key] for key in known):
                        await self._changed.wait()
        finally:
            self.watching -= 1

    async def set(self, key: str, value: Any) -> None:
        async with self._changed:
            self.values[key] = (self.values.get(key, (0, None))[0] + 1, value)
            self._changed.notify_all()

    async def deploy(self, name: str, **more: Any) -> None:
        await self.set(f"app#{name}", DeploymentTargets(app="app", deployment=name, **more))
