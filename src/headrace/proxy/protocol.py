"""uvicorn's HTTP protocol with what a proxy needs on top: to hear at once when a client hangs up, to cut a response
short, and not to keep connections that never finish a request's head, or one without end."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CALL_KEY = "headrace.call"
"""Where the application leaves the `HttpCall` of a request in its scope, to be told when the client leaves."""

TRANSPORT_KEY = "headrace.transport"

HEAD_TIMEOUT_S = 30.0
"""How long a client may take for a request's line and headers."""

MAX_HEAD_BYTES = 64 * 1024
"""The longest request line with headers; also the most that a client may send between two pieces of a body."""

LINGER_S = 1.0
LINGER_BYTES = 4 * 1024 * 1024
"""How long, and how much, of a request that was refused is still read before the connection is closed: closing on
unread bytes resets it, and a client that is still sending would lose the answer (RFC 9112, section 9.6)."""

_MAX_PIPELINED = 16
"""How many requests a client may send ahead of their answers before no more of it is read."""

_REFUSAL = b"the request's head is longer than %d bytes"


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
            try:
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            except RuntimeError:  # uvloop's transports refuse writes once the client has hung up
                pass

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._out = []
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Discarding:
    """Stands in for the parser of a connection whose request was refused."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._left = LINGER_BYTES

    def feed_data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()


class ProxyProtocol(HttpToolsProtocol):
    _begun: float | None = None
    _unbounded = 0
    """Bytes received since a head was complete, or a piece of a body came."""
    _too_long = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overtaken: list[Any] = []
        """Requests that are not answered yet while the client has sent the next already."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]
        self._begun = self.loop.time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT_KEY] = self.transport  # type: ignore[literal-required]
        self._begun = self.loop.time()

    def on_headers_complete(self) -> None:
        self._begun = None
        if self._unbounded > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._too_long = True
            raise ValueError("a request head that is too long")  # the parser stops, and `send_400_response` is called
        self._unbounded = 0
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            self._overtaken = [cycle for cycle in (*self._overtaken, before) if not cycle.response_complete]
            if len(self.pipeline) <= _MAX_PIPELINED:
                self.flow.resume_reading()  # a client that hangs up is heard of by reading only

    def on_body(self, body: bytes) -> None:
        self._unbounded = 0
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._unbounded += len(data)
        super().data_received(data)
        if self._unbounded > MAX_HEAD_BYTES and not self._too_long:
            self._too_long = True
            if self.cycle is None or self.cycle.response_complete:
                self._refuse_head()
            else:  # endless trailers, or what is pipelined behind a request: an answer would come out of order
                self.transport.close()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def send_400_response(self, msg: str) -> None:
        if self._too_long:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        body = _REFUSAL % MAX_HEAD_BYTES
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
        self.transport.write(head + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        self._begun = None
        self.parser = _Discarding(self.transport)  # type: ignore[assignment]
        self.loop.call_later(LINGER_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        cycles = [*self._overtaken, *(cycle for cycle, _ in self.pipeline), self.cycle]
        super().connection_lost(exc)
        for cycle in cycles:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                call: Any = cycle.scope.get(CALL_KEY)
                if call is not None and not call.settled:
                    call.client_left()

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
