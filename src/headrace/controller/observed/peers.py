"""The controller's connections to the sockets of processes that tell how they do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar

import msgspec

from headrace.controller.replica_connection import ReplicaConnection
from headrace.wire.errors import WireError

T = TypeVar("T")


class Peers:
    """Connects where something is asked, and stays connected until told that the process is gone.

    Args:
        secret: the instance's.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._connections: dict[str, ReplicaConnection] = {}

    async def ask(self, address: str, method: str, body: Any, within_s: float, type: type[T]) -> T | None:
        """What a process answers; None where it does not within that time, is gone, or knows no such question (one that
        runs since before an upgrade)."""
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = ReplicaConnection(self._secret, lambda: None)
            connection.address = address
        try:
            async with asyncio.timeout(within_s):
                client = await connection.client(within_s)
                answer: T = await client.call(method, body, type=type)
                return answer
        except (OSError, WireError, msgspec.MsgspecError):
            return None

    def keep(self, addresses: Collection[str]) -> None:
        """Let go of the connections to all others."""
        for address in self._connections.keys() - addresses:
            self._connections.pop(address).close()

    def close(self) -> None:
        self.keep(())
