"""The end of a connection that answers calls."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from headrace.wire import auth, frames
from headrace.wire.codec import Buffers
from headrace.wire.connection import Connection, SharedMemory
from headrace.wire.errors import ConnectionLost, ProtocolViolation
from headrace.wire.frames import CHUNK_OVERHEAD, CREDIT_BODY, STREAM_WINDOW
from headrace.wire.tls import HANDSHAKE_TIMEOUT_S as TLS_TIMEOUT_S
from headrace.wire.tls import fingerprint_of_server, tls_identity

logger = logging.getLogger("headrace.wire")

HANDSHAKE_TIMEOUT_S = 5.0

_NO_WINDOW = -(1 << 62)
"""Of a call whose caller has gone: code that goes on sending, whatever it is told, is stopped at `writable`."""


class Service(Protocol):
    """What answers calls. `request` is called once per call, on the event loop, and must not block.

    It may have a method `turned_away(call) -> bool` too, which is asked when the first part of a large request has
    come: it rejects the call and returns True where there is no room, so that the rest need not be sent. `call` has
    neither header nor payload then.
    """

    def request(self, call: ServerCall) -> None: ...

    def never_ran(self, call: ServerCall) -> None:
        """The call's task was cancelled before its first step, so none of its code has run or will."""


class ServerCall:
    """A call to answer: `respond` or `fail` or `reject` it, or `start`, `chunk`…, `end`.

    Attributes:
        flags: what the header is (`frames.HTTP`, …) and how the payload is encoded.
        task: what works on it; cancelled when the caller abandons the call or its connection ends. Its first step sets
            `entered`.
        on_cancel: called in place of that where there is no task.
        note: whatever the service keeps with the call; None at first.
    """

    __slots__ = (
        "_body",
        "_body_ended",
        "_body_taken",
        "_body_waiters",
        "_window_waiters",
        "cancelled",
        "connection",
        "entered",
        "finished",
        "flags",
        "header",
        "id",
        "note",
        "on_cancel",
        "payload",
        "task",
        "window",
    )

    def __init__(
        self, connection: CalleeConnection, id: int, flags: int, header: bytes, payload: bytes | memoryview
    ) -> None:
        self.connection = connection
        self.id = id
        self.flags = flags
        self.header = header
        self.payload = payload
        self.finished = False
        self.cancelled = False
        self.entered = False
        self.task: asyncio.Task[None] | None = None
        self.on_cancel: Callable[[], object] | None = None
        self.note: Any = None
        self.window = STREAM_WINDOW
        self._window_waiters: list[asyncio.Future[None]] | None = None
        self._body: deque[bytes] | None = None
        self._body_ended = not flags & frames.MORE
        self._body_waiters: list[asyncio.Future[None]] | None = None
        self._body_taken = 0

    # Answers.

    def respond(self, flags: int, header: bytes, payload: bytes | Buffers = b"") -> None:
        self._finish(frames.RESPONSE, flags, header, payload)

    def fail(self, flags: int, header: bytes, payload: bytes | Buffers = b"") -> None:
        self._finish(frames.ERROR, flags, header, payload)

    def reject(self, header: bytes = b"") -> None:
        self._finish(frames.REJECT, 0, header, b"")

    def end(self, header: bytes = b"") -> None:
        self._finish(frames.END, 0, header, b"")

    def _finish(self, kind: int, flags: int, header: bytes, payload: bytes | Buffers) -> None:
        if not self.finished:
            self.finished = True
            connection = self.connection
            if connection.calls.pop(self.id, None) is not None:
                connection.send(kind, flags, self.id, header, payload)

    def start(self, flags: int, header: bytes, payload: bytes | Buffers = b"") -> None:
        """Begin a streamed answer."""
        if not self.finished:
            self.connection.send(frames.START, flags, self.id, header, payload)

    def chunk(self, flags: int, payload: bytes | Buffers, header: bytes = b"") -> None:
        """Send a piece of a streamed answer; call `await writable()` before where the source is fast."""
        if not self.finished:
            size = len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
            self.window -= size + CHUNK_OVERHEAD
            self.connection.send(frames.CHUNK, flags, self.id, header, payload)

    @property
    def is_writable(self) -> bool:
        return self.window > 0 and not self.connection.congested

    async def writable(self) -> None:
        """Wait until the receiver and the socket take more of this stream.

        Raises:
            ConnectionLost: nobody takes it any more.
        """
        while self.window <= 0:
            if self.finished:
                raise ConnectionLost("the caller is gone")
            if self._window_waiters is None:
                self._window_waiters = []
            await _turn(self._window_waiters, self.connection.loop)
        await self.connection.drain()

    # The request's body, where it streams.

    async def receive(self) -> bytes | None:
        """The next piece of the body; None at its end.

        Raises:
            ConnectionLost: the caller went away before the end.
        """
        while not self._body:
            if self.cancelled:
                raise ConnectionLost("the caller went away before the end of the body")
            if self._body_ended:
                return None
            if self._body_waiters is None:
                self._body_waiters = []
            await _turn(self._body_waiters, self.connection.loop)
        piece = self._body.popleft()
        self._grant(len(piece) + CHUNK_OVERHEAD)
        return piece

    @property
    def body_ended(self) -> bool:
        """Whether all of the body has arrived (`receive` gives the rest without waiting)."""
        return self._body_ended

    def accept_body(self) -> None:
        """Let the caller send the body: it waits for this, so that a rejected call has consumed nothing."""
        if not self._body_ended:
            self.connection.send(frames.CREDIT, 0, self.id, b"", CREDIT_BODY.pack(STREAM_WINDOW))

    def _grant(self, taken: int) -> None:
        self._body_taken += taken
        if self._body_taken >= STREAM_WINDOW // 4:
            self.connection.send(frames.CREDIT, 0, self.id, b"", CREDIT_BODY.pack(self._body_taken))
            self._body_taken = 0

    # From the connection.

    def _chunk_received(self, payload: bytes) -> None:
        if self._body is None:
            self._body = deque()
        self._body.append(payload)
        self._wake_body()

    def _end_received(self) -> None:
        self._body_ended = True
        self._wake_body()

    def _credit_received(self, amount: int) -> None:
        self.window += amount
        if self._window_waiters:
            _wake(self._window_waiters)

    def _wake_body(self) -> None:
        if self._body_waiters:
            _wake(self._body_waiters)

    def _cancel(self) -> None:
        self.cancelled = True
        self.finished = True
        self.window = _NO_WINDOW
        self._wake_body()
        self._credit_received(0)
        if self.task is not None:
            self.task.cancel()
            if not self.entered:
                self.connection.service.never_ran(self)
        elif self.on_cancel is not None:
            self.on_cancel()


async def _turn(waiters: list[asyncio.Future[None]], loop: asyncio.AbstractEventLoop) -> None:
    """Wait to be woken. There may be several that wait: user code may send from more than one task."""
    waiter = loop.create_future()
    waiters.append(waiter)
    await waiter


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


class CalleeConnection(Connection):
    """Takes calls, hands them to a service.

    Attributes:
        on_lost: called once when the connection ends.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        secret: bytes,
        service: Service,
        shared: SharedMemory | None,
        connections: set[CalleeConnection],
    ) -> None:
        super().__init__(loop, shared)
        self.calls: dict[int, ServerCall] = {}
        self.on_lost: Callable[[], None] | None = None
        self._secret = secret
        self.service = service
        self._turned_away: Callable[[ServerCall], bool] | None = getattr(service, "turned_away", None)
        self._connections = connections
        self._nonce = auth.nonce()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.add(self)
        self.transport.write(auth.MAGIC + self._nonce)
        self._deadline = self.loop.call_later(HANDSHAKE_TIMEOUT_S, self._too_slow)

    def _too_slow(self) -> None:
        logger.warning("closed a connection from %s: no handshake within %g s", self._peer(), HANDSHAKE_TIMEOUT_S)
        self.abort()

    def handshake_received(self, data: bytes) -> int:
        magic = data[: len(auth.MAGIC)]
        if not (auth.MAGIC.startswith(magic) or auth.REMOTE_MAGIC.startswith(magic)):
            raise ProtocolViolation("it does not speak Headrace's protocol")
        if len(data) < auth.CLIENT_HELLO_BYTES:
            return 0
        start = len(auth.MAGIC) + auth.NONCE_BYTES
        client_nonce = data[len(auth.MAGIC) : start]
        given = data[start : auth.CLIENT_HELLO_BYTES]
        bound = fingerprint_of_server(self.transport)
        role = b"client" if magic == auth.MAGIC else b"remote"
        if not auth.verify(self._secret, role, self._nonce, client_nonce, given, bound):
            raise ProtocolViolation("it does not hold the secret")
        if role == b"remote":
            self.shared = None
        self.authenticated = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.transport.write(auth.proof(self._secret, b"server", self._nonce, client_nonce, bound))
        return auth.CLIENT_HELLO_BYTES

    def frame_received(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes | memoryview) -> None:
        if kind == frames.REQUEST:
            call = ServerCall(self, call_id, flags, header, payload)
            self.calls[call_id] = call
            self.service.request(call)
            return
        known = self.calls.get(call_id)
        if known is None:
            if kind == frames.CANCEL:
                self.forget(call_id)  # before all of a large request was here
            return  # answered already
        if kind == frames.CHUNK:
            known._chunk_received(bytes(payload))
        elif kind == frames.CREDIT:
            known._credit_received(CREDIT_BODY.unpack(payload)[0])
        elif kind == frames.END:
            known._end_received()
        elif kind == frames.CANCEL:
            del self.calls[call_id]
            self.forget(call_id)
            known._cancel()
        else:
            raise ProtocolViolation(f"frame of kind {kind} from a caller")

    def wanted(self, kind: int, call_id: int, flags: int) -> bool:
        if kind != frames.REQUEST:
            return call_id in self.calls
        if self._turned_away is None:
            return True
        call = self.calls[call_id] = ServerCall(self, call_id, flags, b"", b"")
        if self._turned_away(call):
            return False
        del self.calls[call_id]
        return True

    def lost(self, error: ConnectionLost) -> None:
        self._connections.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            try:
                call._cancel()
            except Exception:
                logger.exception("a call could not be told that its connection was lost")
        if self.on_lost is not None:
            self.on_lost()


class Listener:
    """Listening sockets whose connections' calls go to one service."""

    def __init__(self, servers: list[asyncio.AbstractServer], connections: set[CalleeConnection]) -> None:
        self._servers = servers
        self.connections = connections

    def close(self) -> None:
        """Stop accepting and close every connection."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.close()


async def listen(
    listener: socket.socket,
    secret: bytes,
    service: Service,
    shared: SharedMemory | None = None,
    *,
    also: Sequence[socket.socket] = (),
) -> Listener:
    """Serve calls on a socket that is bound and listening already. TLS goes around TCP where this process uses it.

    Args:
        shared: for large payloads over a Unix socket.
        also: more such sockets, for the same calls.

    Raises:
        ConfigError: the files of TLS are wrong.
    """
    connections: set[CalleeConnection] = set()
    servers = [await _serve(sock, secret, service, shared, connections) for sock in (listener, *also)]
    return Listener(servers, connections)


async def _serve(
    listener: socket.socket,
    secret: bytes,
    service: Service,
    shared: SharedMemory | None,
    connections: set[CalleeConnection],
) -> asyncio.AbstractServer:
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(
            lambda: CalleeConnection(loop, secret, service, shared, connections), sock=listener
        )
    identity = tls_identity()
    return await loop.create_server(
        lambda: CalleeConnection(loop, secret, service, None, connections),
        sock=listener,
        ssl=identity.server if identity is not None else None,
        ssl_handshake_timeout=TLS_TIMEOUT_S if identity is not None else None,
    )
