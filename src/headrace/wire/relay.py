"""Listens in one place for what is served in another: hands each connection on to an address, whatever it speaks."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from headrace.wire.dial import dial
from headrace.wire.errors import WireError
from headrace.wire.splice import SpliceEnd

logger = logging.getLogger("headrace.wire")

CONNECT_TIMEOUT_S = 5.0


class Relay:
    """Hands connections on until `close`."""

    def __init__(self, secret: bytes, target: Callable[[], str | None]) -> None:
        self.connections: set[SpliceEnd] = set()
        self._secret = secret
        self._target = target
        self._server: asyncio.AbstractServer | None = None

    async def listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(lambda: _Arrival(self), sock=listener)
        else:
            self._server = await loop.create_server(lambda: _Arrival(self), sock=listener)

    async def hand_on(self, arrival: SpliceEnd) -> None:
        """Connect `arrival` to where the target is at this moment; end it where that cannot be."""
        address = self._target()
        if address is not None:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    far = await dial(address, self._secret, SpliceEnd)
                far.join(arrival)
                return
            except (OSError, WireError, ValueError, TimeoutError) as error:
                logger.debug("a connection could not be handed on to %s: %s", address, error)
        arrival.abort()

    def close(self) -> None:
        """Stop accepting, and end every connection."""
        if self._server is not None:
            self._server.close()
        for arrival in list(self.connections):
            arrival.abort()


async def relay(listener: socket.socket, secret: bytes, target: Callable[[], str | None]) -> Relay:
    """Hand every connection to `listener`, a Unix or TCP socket that is bound and listening, on to an address.

    Args:
        target: asked for each connection where it goes: an address as `wire.address` reads it; or None, and it is
            closed. Must not block.
    """
    made = Relay(secret, target)
    await made.listen(listener)
    return made


class _Arrival(SpliceEnd):
    def __init__(self, owner: Relay) -> None:
        super().__init__()
        self._owner = owner
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner.connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._owner.hand_on(self))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._owner.connections.discard(self)
        if self._task is not None:
            self._task.cancel()
