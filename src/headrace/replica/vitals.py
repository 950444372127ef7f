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

_ANSWER_WITHIN_S = 0.6


class LoopProbe:
    """Asks the event loop of another thread to turn, when somebody wants to know: nothing runs while nobody asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked_at = 0.0
        self._answered: asyncio.Event | None = None

    async def blocked_s(self) -> float:
        """For how long the loop has not turned, seconds; 0 where it answers within a moment.

        Counted from the first question that it left open, so that who asks again and again sees it grow.
        """
        if self._answered is None or self._answered.is_set():
            answered = self._answered = asyncio.Event()
            self._asked_at = time.monotonic()
            here = asyncio.get_running_loop()
            self._loop.call_soon_threadsafe(lambda: here.call_soon_threadsafe(answered.set))
        try:
            await asyncio.wait_for(self._answered.wait(), _ANSWER_WITHIN_S)
        except TimeoutError:
            return time.monotonic() - self._asked_at
        return 0.0


def serve_vitals(
    path: Path,
    secret: bytes,
    replica_id: str,
    probe: LoopProbe,
    phase: Callable[[], str],
    ongoing: Callable[[], int],
) -> None:
    """Answer `vitals` on the Unix socket `path`, from a new daemon thread."""

    async def vitals() -> ReplicaVitals:
        return ReplicaVitals(
            replica_id=replica_id,
            pid=os.getpid(),
            phase=phase(),
            loop_blocked_s=await probe.blocked_s(),
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
