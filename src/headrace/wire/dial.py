"""Opening a connection to an address of any kind, up to the point where the protocol for it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from headrace.exceptions import ConfigError
from headrace.wire import auth, tls
from headrace.wire.address import TcpAddress, UnixAddress, parse_address
from headrace.wire.errors import HandshakeFailed

_P = TypeVar("_P", bound=asyncio.Protocol)

OPEN = b"\1"
ABSENT = b"\0"


async def dial(address: str, secret: bytes, make_protocol: Callable[[], _P], secured: bool = True) -> _P:
    """Connect to `address` and hand the connection to a protocol. Through a gate where the address says so.

    Args:
        secured: TLS goes around a TCP connection where this process uses it; a gate's always has it then.

    Raises:
        OSError: nobody listens there; TLS was refused (`ssl.SSLError`), or its files are wrong.
        HandshakeFailed: the gate, or this process, does not hold the secret.
        ValueError: it is no address.
    """
    where = parse_address(address)
    loop = asyncio.get_running_loop()
    if isinstance(where, UnixAddress):
        _, protocol = await loop.create_unix_connection(make_protocol, where.path)
        return protocol
    if not where.name:
        return await _connect_tcp(where, make_protocol, secured)
    knock = await _connect_tcp(where, lambda: _Knock(loop, secret, where.name), True)
    try:
        await knock.answered
    except BaseException:
        knock.transport.abort()
        raise
    return knock.become(make_protocol())


async def _connect_tcp(where: TcpAddress, make_protocol: Callable[[], _P], secured: bool) -> _P:
    loop = asyncio.get_running_loop()
    try:
        identity = tls.tls_identity() if secured else None
    except ConfigError as error:
        raise OSError(str(error)) from None  # for who connects, a reason like others to try again later
    if identity is None:
        _, protocol = await loop.create_connection(make_protocol, where.host, where.port)
    else:
        _, protocol = await loop.create_connection(
            make_protocol,
            where.host,
            where.port,
            ssl=identity.client,
            server_hostname=where.host,
            ssl_handshake_timeout=tls.HANDSHAKE_TIMEOUT_S,
        )
    return protocol


class _Knock(asyncio.Protocol):
    """Asks a gate for a socket. The gate's part of the conversation is in `wire.gate`.

    Attributes:
        answered: done when the gate has opened.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, secret: bytes, name: str) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.answered: asyncio.Future[None] = loop.create_future()
        self._secret = secret
        self._name = name
        self._nonce = auth.nonce()
        self._server_nonce = b""
        self._received = b""
        self._bound = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._bound = gate_binding(tls.fingerprint_of_server(transport), self._name.encode())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._server_nonce:
            magic = self._received[: len(auth.GATE_MAGIC)]
            if not auth.GATE_MAGIC.startswith(magic):
                self._refuse("what listens there is no gate")
            elif len(self._received) >= auth.SERVER_HELLO_BYTES:
                self._server_nonce = self._received[len(magic) : auth.SERVER_HELLO_BYTES]
                self._received = self._received[auth.SERVER_HELLO_BYTES :]
                proof = auth.proof(self._secret, b"gate-client", self._server_nonce, self._nonce, self._bound)
                name = self._name.encode()
                self.transport.write(auth.GATE_MAGIC + self._nonce + bytes([len(name)]) + name + proof)
        elif len(self._received) > auth.PROOF_BYTES and not self.answered.done():
            self._take_answer()

    def _take_answer(self) -> None:
        result, given = self._received[:1], self._received[1 : 1 + auth.PROOF_BYTES]
        self._received = self._received[1 + auth.PROOF_BYTES :]
        bound = result + self._bound
        if not auth.verify(self._secret, b"gate-server", self._server_nonce, self._nonce, given, bound):
            self._refuse("the gate does not hold the secret")
        elif result == OPEN:
            # Until somebody takes the connection over; what comes now is kept in `_received`.
            self.transport.pause_reading()
            self.answered.set_result(None)
        else:
            self._fail(ConnectionRefusedError(f"nobody listens at {self._name!r} behind the gate"))

    def connection_lost(self, exc: Exception | None) -> None:
        hint = tls.hint_of_refusal(self.transport)
        self._fail(exc or HandshakeFailed(f"the gate closed the connection during the handshake{hint}"))

    def _refuse(self, why: str) -> None:
        self._fail(HandshakeFailed(why))
        self.transport.abort()

    def _fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()

    def become(self, protocol: _P) -> _P:
        """Give the connection to `protocol`.

        Raises:
            HandshakeFailed: it was lost meanwhile.
        """
        if self.transport.is_closing():
            raise HandshakeFailed("the gate closed the connection right after the handshake")
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()
        protocol.connection_made(self.transport)
        if self._received:
            protocol.data_received(self._received)
        return protocol


def gate_binding(fingerprint: bytes, name: bytes) -> bytes:
    """What both proofs at a gate cover beyond the nonces: the server's certificate, and the name asked for."""
    return bytes([len(fingerprint)]) + fingerprint + name
