"""uvicorn's HTTP protocol with what a proxy needs on top: to hear at once when a client hangs up, to cut a response
short, and not to keep connections that never finish a request's head."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CALL_KEY = "headrace.call"
"""Where the application leaves the `HttpCall` of a request in its scope, to be told when the client leaves."""

TRANSPORT_KEY = "headrace.transport"

HEAD_TIMEOUT_S = 30.0
"""How long a client may take for a request's line and headers."""


class JoiningTransport:
    """A transport whose writes of one loop turn leave in one system call: uvicorn writes the head of a response and its
    body apart. Everything but writing goes to the transport beneath."""

    __slots__ = ("_loop", "_out", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._out: list[bytes] = []

    def write(self, data: bytes) -> None:
        out = self._out
        out.append(data)
        if len(out) == 1:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._out = []
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ProxyProtocol(HttpToolsProtocol):
    _begun: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._begun = self.loop.time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT_KEY] = self.transport  # type: ignore[literal-required]
        self._begun = self.loop.time()

    def on_headers_complete(self) -> None:
        self._begun = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.cycle
        super().connection_lost(exc)
        if cycle is not None:
            call: Any = cycle.scope.get(CALL_KEY)
            if call is not None and not call.settled:
                call.client_left()
        for waiting, _ in self.pipeline:
            waiting.disconnected = True

    def close_if_slow(self, now: float) -> None:
        if self._begun is not None and now - self._begun > HEAD_TIMEOUT_S and not self.transport.is_closing():
            self.transport.close()


async def close_slow_clients(connections: set[Any]) -> None:
    """Look, for as long as it runs, for clients that hold a connection with half a request head."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(HEAD_TIMEOUT_S / 6)
        now = loop.time()
        for connection in list(connections):
            if isinstance(connection, ProxyProtocol):
                connection.close_if_slow(now)
