"""Both ends of a real connection in one test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from headrace.engine.listeners import listen_unix
from headrace.wire.callee import CalleeConnection, Listener, ServerCall, listen
from headrace.wire.caller import Call, CallerConnection, connect
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import ConnectionLost

from .conditions import until

SECRET = b"s" * 32


class Recorded(Call):
    """A call that notes what happens to it. `ended` is done when it is over.

    Args:
        greedy: it says at once that it took what came; otherwise the test says so.
    """

    def __init__(self, greedy: bool = True) -> None:
        super().__init__()
        self.events: list[tuple[str, bytes]] = []
        self.payloads: list[bytes | memoryview] = []
        self.flags = 0
        self.greedy = greedy
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _end(self, how: str, detail: bytes = b"") -> None:
        self.events.append((how, detail))
        assert not self.ended.done(), f"ended twice: {self.events}"
        self.ended.set_result(how)

    def on_response(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.flags = flags
        self.payloads.append(payload)
        self._end("response", header)

    def on_start(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.events.append(("start", header))

    def on_chunk(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.flags = flags
        self.payloads.append(payload)
        if self.greedy:
            self.took(len(payload))

    def on_end(self, header: bytes) -> None:
        self._end("end", header)

    def on_error(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.flags = flags
        self.payloads.append(payload)
        self._end("error", header)

    def on_reject(self, header: bytes) -> None:
        self._end("reject", header)

    def on_lost(self, error: ConnectionLost) -> None:
        self._end("lost")

    def on_credit(self) -> None:
        self.events.append(("credit", b""))

    @property
    def received(self) -> int:
        return sum(map(len, self.payloads))


class Requests:
    """A service that keeps the calls for the test to answer, or hands each to `answer`."""

    def __init__(self, answer: Callable[[ServerCall], object] | None = None) -> None:
        self.calls: list[ServerCall] = []
        self.answer = answer

    def request(self, call: ServerCall) -> None:
        self.calls.append(call)
        if self.answer is not None:
            self.answer(call)

    def never_ran(self, call: ServerCall) -> None: ...

    async def next(self) -> ServerCall:
        await until(lambda: self.calls)
        return self.calls.pop(0)


class Connected:
    def __init__(self, path: Path, listener: Listener, caller: CallerConnection) -> None:
        self.path = path
        self.listener = listener
        self.caller = caller

    @property
    def callee(self) -> CalleeConnection:
        (connection,) = self.listener.connections
        return connection

    def call(self, header: bytes = b"", payload: object = b"", flags: int = 0, greedy: bool = True) -> Recorded:
        made = Recorded(greedy)
        self.caller.call(made, flags, header, payload)  # type: ignore[arg-type]
        return made


@contextlib.asynccontextmanager
async def connected(
    folder: Path,
    service: Requests,
    shared: SharedMemory | None = None,
    callee_shared: SharedMemory | None = None,
) -> AsyncIterator[Connected]:
    path = folder / "wire.sock"
    listener = await listen(listen_unix(path), SECRET, service, callee_shared)
    caller = await connect(str(path), SECRET, shared)
    try:
        yield Connected(path, listener, caller)
    finally:
        caller.abort()
        listener.close()
        for connection in list(listener.connections):
            connection.abort()
        await until(lambda: caller.closed and not listener.connections)
