"""A machine's one TCP port for its peers: through it they reach the Unix sockets of one folder.

    gate to client: GATE_MAGIC, gate nonce
    client to gate: GATE_MAGIC, client nonce, u8 length of the name, name, HMAC(secret, "gate-client" + nonces + bound)
    gate to client: OPEN or ABSENT, HMAC(secret, "gate-server" + nonces + OPEN or ABSENT + bound)

`bound` is the server's certificate, where there is TLS, and the name. From then on the connection is the socket's: what
is spoken there, with its own handshake, goes end to end.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

from headrace.wire import auth, tls
from headrace.wire.address import is_socket_name
from headrace.wire.dial import ABSENT, OPEN, gate_binding
from headrace.wire.splice import SpliceEnd

logger = logging.getLogger("headrace.wire")

HANDSHAKE_TIMEOUT_S = 5.0
MAX_STRANGERS = 512
"""Connections that have proved nothing yet. One more, and the oldest is closed: who holds the secret is through
within milliseconds."""

_NAME_AT = len(auth.GATE_MAGIC) + auth.NONCE_BYTES + 1


class Gate:
    """Listens until `close`."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder = folder
        self.secret = secret
        self.strangers: dict[_Stranger, None] = {}
        self.guests: set[SpliceEnd] = set()
        self._server: asyncio.AbstractServer | None = None

    async def listen(self, listener: socket.socket, identity: tls.TlsIdentity | None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Stranger(self),
            sock=listener,
            ssl=identity.server if identity is not None else None,
            ssl_handshake_timeout=tls.HANDSHAKE_TIMEOUT_S if identity is not None else None,
        )

    def close(self) -> None:
        """Stop accepting, and end every connection."""
        if self._server is not None:
            self._server.close()
        for stranger in list(self.strangers):
            stranger.abort()
        for guest in list(self.guests):
            guest.abort()


async def open_gate(listener: socket.socket, secret: bytes, folder: Path) -> Gate:
    """Serve the Unix sockets in `folder` to whoever holds the secret, on a TCP socket that is bound and listening.

    TLS goes around it where this process uses it (`wire.tls`).

    Raises:
        ConfigError: the files of TLS are wrong.
    """
    identity = tls.tls_identity()
    gate = Gate(folder, secret)
    await gate.listen(listener, identity)
    return gate


class _Guest(SpliceEnd):
    """A peer that is through."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate.guests.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.guests.discard(self)
        super().connection_lost(exc)


class _Stranger(asyncio.Protocol):
    """A peer that has yet to prove that it holds the secret."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._nonce = auth.nonce()
        self._received = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        strangers = self._gate.strangers
        if len(strangers) >= MAX_STRANGERS:
            next(iter(strangers)).abort()
        strangers[self] = None
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(
            HANDSHAKE_TIMEOUT_S, self._give_up, f"no handshake in {HANDSHAKE_TIMEOUT_S:g} s"
        )
        self._transport.write(auth.GATE_MAGIC + self._nonce)

    def data_received(self, data: bytes) -> None:
        self._received += data
        received = self._received
        if not auth.GATE_MAGIC.startswith(received[: len(auth.GATE_MAGIC)]):
            self._give_up("it does not ask as one asks a gate")
            return
        if len(received) < _NAME_AT:
            return
        end = _NAME_AT + received[_NAME_AT - 1]
        if len(received) < end + auth.PROOF_BYTES:
            return
        if self._task is not None or len(received) > end + auth.PROOF_BYTES:
            self._give_up("it said more than was its turn")
            return
        client_nonce = received[len(auth.GATE_MAGIC) : _NAME_AT - 1]
        name = received[_NAME_AT:end]
        bound = gate_binding(tls.fingerprint_of_server(self._transport), name)
        secret = self._gate.secret
        if not auth.verify(secret, b"gate-client", self._nonce, client_nonce, received[end:], bound):
            self._give_up("it does not hold the secret")
            return
        self._task = asyncio.get_running_loop().create_task(self._open(name, client_nonce, bound))

    async def _open(self, name: bytes, client_nonce: bytes, bound: bytes) -> None:
        """Connect the peer, who is one of ours, to what it asks for."""
        inner: SpliceEnd | None = None
        text = name.decode("latin-1")
        try:
            if is_socket_name(text):
                path = str(self._gate.folder / text)
                _, inner = await asyncio.get_running_loop().create_unix_connection(SpliceEnd, path)
        except OSError as error:
            logger.debug("the gate finds nobody at %s: %s", text, error)
        transport = self._transport
        if transport.is_closing():
            if inner is not None:
                inner.abort()
            return
        result = ABSENT if inner is None else OPEN
        transport.write(
            result + auth.proof(self._gate.secret, b"gate-server", self._nonce, client_nonce, result + bound)
        )
        if inner is None:
            transport.close()
            return
        self._leave()
        guest = _Guest(self._gate)
        transport.set_protocol(guest)
        guest.connection_made(transport)
        guest.join(inner)

    def _give_up(self, why: str) -> None:
        logger.warning("the gate closed a connection from %s: %s", self._transport.get_extra_info("peername"), why)
        self.abort()

    def abort(self) -> None:
        self._leave()
        self._transport.abort()

    def _leave(self) -> None:
        self._gate.strangers.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._task is not None:
            self._task.cancel()
