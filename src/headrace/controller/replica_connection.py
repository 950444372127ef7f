"""The controller's connection to one replica: made when it is needed, and again when it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace.wire.rpc import RpcClient


class ReplicaConnection:
    """
    Args:
        secret: the instance's.
        on_lost: called when the connection ends, unless it was closed here.

    Attributes:
        address: the replica's; set before anybody connects.
    """

    def __init__(self, secret: bytes, on_lost: Callable[[], None]) -> None:
        self.address = ""
        self._secret = secret
        self._on_lost = on_lost
        self._client: RpcClient | None = None
        self._connecting = asyncio.Lock()

    async def client(self, timeout_s: float) -> RpcClient:
        """The connection; a new one where there is none.

        Raises:
            OSError, WireError: there is none to be had within `timeout_s` seconds.
        """
        async with self._connecting:
            if self._client is None or self._client.closed:
                client = await RpcClient.connect(self.address, self._secret, timeout_s=timeout_s)
                client.on_lost = lambda: self._lost(client)
                self._client = client
            return self._client

    def _lost(self, client: RpcClient) -> None:
        if self._client is client:
            self._client = None
            self._on_lost()

    def close(self) -> None:
        """Let go of the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
