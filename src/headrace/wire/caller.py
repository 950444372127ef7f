"""The end of a connection that makes calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.wire import auth, frames
from headrace.wire.address import TcpAddress, UnixAddress, parse_address
from headrace.wire.codec import Buffers
from headrace.wire.connection import Connection, SharedMemory
from headrace.wire.dial import dial
from headrace.wire.errors import ConnectionLost, HandshakeFailed, ProtocolViolation
from headrace.wire.frames import CHUNK_OVERHEAD, CREDIT_BODY, STREAM_WINDOW
from headrace.wire.tls import fingerprint_of_server, hint_of_refusal, tls_identity

logger = logging.getLogger("headrace.wire")

CONNECT_TIMEOUT_S = 5.0


class Call:
    """A call that is under way; subclasses say what becomes of what arrives.

    Exactly one of `on_response`, `on_error`, `on_reject`, `on_lost`, or `on_end` after `on_start`, ends it. A stream's
    receiver calls `took(n)` for every payload that it is done with, or the sender stops after `STREAM_WINDOW` bytes.
    """

    __slots__ = ("connection", "id", "send_window", "taken")

    def __init__(self) -> None:
        self.connection: CallerConnection | None = None
        self.id = 0
        self.taken = 0
        self.send_window = 0

    def on_response(self, flags: int, header: bytes, payload: bytes | memoryview) -> None: ...
    def on_start(self, flags: int, header: bytes, payload: bytes | memoryview) -> None: ...
    def on_chunk(self, flags: int, header: bytes, payload: bytes | memoryview) -> None: ...
    def on_end(self, header: bytes) -> None: ...
    def on_error(self, flags: int, header: bytes, payload: bytes | memoryview) -> None: ...
    def on_reject(self, header: bytes) -> None: ...
    def on_lost(self, error: ConnectionLost) -> None: ...
    def on_credit(self) -> None: ...

    def took(self, payload_bytes: int) -> None:
        """Tell the sender of this stream that it may send as much again."""
        self.taken += payload_bytes + CHUNK_OVERHEAD
        if self.taken >= STREAM_WINDOW // 4 and self.connection is not None:
            self.connection.send(frames.CREDIT, 0, self.id, b"", CREDIT_BODY.pack(self.taken))
            self.taken = 0

    def send_body(self, data: bytes) -> None:
        """Send a chunk of the request's body. Wait while `send_window <= 0`, until `on_credit`."""
        if self.connection is not None:
            self.send_window -= len(data) + CHUNK_OVERHEAD
            self.connection.send(frames.CHUNK, 0, self.id, b"", data)

    def end_body(self) -> None:
        if self.connection is not None:
            self.connection.send(frames.END, 0, self.id)

    def abandon(self) -> None:
        """Tell the callee that nobody waits for the answer; nothing of this call arrives any more."""
        connection = self.connection
        if connection is not None:
            self.connection = None
            if connection.calls.pop(self.id, None) is not None:
                connection.forget(self.id)
                connection.send(frames.CANCEL, 0, self.id)


class _Handshake:
    """What a caller needs until it has shaken hands. Apart from its connection: Python keeps objects compact, and
    access to them fast, while they have 30 attributes at most."""

    __slots__ = ("bound", "direct", "nonce", "secret", "server_nonce")

    def __init__(self, secret: bytes, direct: bool) -> None:
        self.secret = secret
        self.direct = direct
        self.nonce = auth.nonce()
        self.server_nonce = b""
        self.bound = b""


class CallerConnection(Connection):
    """Makes calls and takes their answers.

    Args:
        shared: for large payloads; None where the callee is on another machine.
        direct: no gate is between this end and the callee's.

    Attributes:
        on_lost: called once when the connection ends.
        on_capacity: called when the callee says that it has room again after it rejected a call.
        on_pong: called when the callee answers a `ping`: its event loop turns.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, secret: bytes, shared: SharedMemory | None, direct: bool = True
    ) -> None:
        super().__init__(loop, shared)
        self._handshake = _Handshake(secret, direct)
        self.calls: dict[int, Call] = {}
        self.ready: asyncio.Future[None] = loop.create_future()
        self.on_lost: Callable[[], None] | None = None
        self.on_capacity: Callable[[], None] | None = None
        self.on_pong: Callable[[], None] | None = None
        self._next = 0

    def call(self, call: Call, flags: int, header: bytes, payload: bytes | Buffers = b"") -> None:
        """Send a request. Where the connection has just gone, the call is told so on the next loop turn."""
        if self.closed:
            self.loop.call_soon(call.on_lost, ConnectionLost("the connection was closed"))
            return
        self._next = call_id = (self._next + 1) & 0xFFFFFFFF or 1
        call.connection = self
        call.id = call_id
        self.calls[call_id] = call
        self.send(frames.REQUEST, flags, call_id, header, payload)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.send(frames.PING, 0, 0)

    def handshake_received(self, data: bytes) -> int:
        hands = self._handshake
        if not hands.server_nonce:
            if not auth.MAGIC.startswith(data[: len(auth.MAGIC)]) or len(data) > auth.SERVER_HELLO_BYTES:
                raise ProtocolViolation("the peer does not speak Headrace's protocol")
            if len(data) < auth.SERVER_HELLO_BYTES:
                return 0
            hands.server_nonce = data[len(auth.MAGIC) :]
            hands.bound = fingerprint_of_server(self.transport) if hands.direct else b""
            magic, role = (auth.MAGIC, b"client") if self.shared is not None else (auth.REMOTE_MAGIC, b"remote")
            proof = auth.proof(hands.secret, role, hands.server_nonce, hands.nonce, hands.bound)
            self.transport.write(magic + hands.nonce + proof)
            return auth.SERVER_HELLO_BYTES
        if len(data) < auth.PROOF_BYTES:
            return 0
        given = data[: auth.PROOF_BYTES]
        if not auth.verify(hands.secret, b"server", hands.server_nonce, hands.nonce, given, hands.bound):
            raise ProtocolViolation("the peer does not hold the secret")
        self.authenticated = True
        if not self.ready.done():
            self.ready.set_result(None)
        return auth.PROOF_BYTES

    def frame_received(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes | memoryview) -> None:
        if kind == frames.RESPONSE:
            call = self.calls.pop(call_id, None)
            if call is not None:
                call.connection = None
                call.on_response(flags, header, payload)
            return
        if kind == frames.CAPACITY:
            if self.on_capacity is not None:
                self.on_capacity()
            return
        if kind == frames.PONG:
            if self.on_pong is not None:
                self.on_pong()
            return
        call = self.calls.get(call_id)
        if call is None:
            return  # abandoned
        if kind == frames.CHUNK:
            call.on_chunk(flags, header, payload)
        elif kind == frames.START:
            call.on_start(flags, header, payload)
        elif kind == frames.CREDIT:
            call.send_window += CREDIT_BODY.unpack(payload)[0]
            call.on_credit()
        else:
            del self.calls[call_id]
            call.connection = None
            if kind == frames.END:
                call.on_end(header)
            elif kind == frames.ERROR:
                call.on_error(flags, header, payload)
            elif kind == frames.REJECT:
                self.forget(call_id)  # where it comes before all of a large request has left
                call.on_reject(header)
            else:
                raise ProtocolViolation(f"frame of kind {kind} from a callee")

    def wanted(self, kind: int, call_id: int, flags: int) -> bool:
        return call_id in self.calls

    def lost(self, error: ConnectionLost) -> None:
        if not self.ready.done():
            hint = hint_of_refusal(self.transport)
            self.ready.set_exception(HandshakeFailed(f"the peer closed the connection during the handshake{hint}"))
            self.ready.exception()
        calls, self.calls = self.calls, {}
        if self.on_lost is not None:
            self.on_lost()
        for call in calls.values():
            call.connection = None
            try:
                call.on_lost(error)
            except Exception:
                logger.exception("a call could not be told that its connection was lost")


async def connect(
    address: str, secret: bytes, shared: SharedMemory | None = None, timeout_s: float = CONNECT_TIMEOUT_S
) -> CallerConnection:
    """Connect to an address as `wire.address` reads it and shake hands. TLS goes around TCP where this process uses it.

    Args:
        shared: used only where the address is a Unix socket of this machine.

    Raises:
        OSError: nobody listens there; TLS was refused (`ssl.SSLError`), or its files are wrong.
        HandshakeFailed: the peer does not hold the secret, or hung up.
        TimeoutError: no handshake within `timeout_s` seconds.
        ValueError: it is no address.
    """
    where = parse_address(address)
    try:
        async with asyncio.timeout(timeout_s):
            return await _shake_hands(address, where, secret, shared)
    except TimeoutError:
        hint = ""
        if isinstance(where, TcpAddress) and tls_identity() is None:
            hint = "; it may want TLS, which this process does not use"
        raise TimeoutError(f"no handshake at {address} within {timeout_s:g} s{hint}") from None


async def _shake_hands(
    address: str, where: UnixAddress | TcpAddress, secret: bytes, shared: SharedMemory | None
) -> CallerConnection:
    loop = asyncio.get_running_loop()
    local = isinstance(where, UnixAddress)
    # TLS ends at a gate, and what is behind it knows nothing of that.
    direct = isinstance(where, UnixAddress) or not where.name
    connection = await dial(address, secret, lambda: CallerConnection(loop, secret, shared if local else None, direct))
    try:
        await connection.ready
        if connection.closed:  # whoever gets it now would never be told that it was lost
            raise HandshakeFailed("the peer closed the connection right after the handshake")
    except BaseException:
        connection.abort()
        raise
    return connection
