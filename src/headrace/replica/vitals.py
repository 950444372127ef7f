"""Tells how the process does, from a thread of its own: even while user code blocks the event loop.

A replica that blocks its loop for a minute is busy, not dead; this is how the controller can tell.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace.config.spec import ReplicaVitals
from headrace.wire.rpc import RpcServer

_BEAT_S = 0.25


class Heartbeat:
    """Notes when the event loop last turned."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.monotonic()
        self._beat()

    def _beat(self) -> None:
        self._last = time.monotonic()
        self._loop.call_later(_BEAT_S, self._beat)

    @property
    def blocked_s(self) -> float:
        """For how long the loop has not turned, seconds; 0 where that is within the beat."""
        return max(0.0, time.monotonic() - self._last - 2 * _BEAT_S)


def serve_vitals(
    path: Path,
    secret: bytes,
    replica_id: str,
    heartbeat: Heartbeat,
    phase: Callable[[], str],
    ongoing: Callable[[], int],
) -> None:
    """Answer `vitals` on the Unix socket `path`, from a new daemon thread."""

    async def vitals() -> ReplicaVitals:
        return ReplicaVitals(
            replica_id=replica_id,
            pid=os.getpid(),
            phase=phase(),
            loop_blocked_s=heartbeat.blocked_s,
            ongoing=ongoing(),
        )

    async def serve() -> None:
        await RpcServer({"vitals": vitals}).start(listener, secret)
        await asyncio.get_running_loop().create_future()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    listener.setblocking(False)
    threading.Thread(target=asyncio.run, args=(serve(),), name="headrace-vitals", daemon=True).start()
