"""Tells how the process does, from a thread of its own: even while user code blocks the event loop.

A replica that blocks its loop for a minute is busy, not dead; this is how the controller can tell.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from headrace.config.spec import ReplicaVitals
from headrace.observe.buckets import LOOP_MS, Buckets
from headrace.observe.exposition import Family
from headrace.observe.stacks import ProcessStacks, process_stacks
from headrace.wire.rpc import RpcServer

_ANSWER_WITHIN_S = 0.6


class LoopProbe:
    """Asks the event loop of another thread to turn, when somebody wants to know: nothing runs while nobody asks.

    Attributes:
        loop: that of the other thread.
        latency_ms: how long the loop took to turn, of all the times that it was asked to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.latency_ms = Buckets(LOOP_MS)
        self.loop = loop
        self._asked_at = 0.0
        self._answered: asyncio.Event | None = None

    async def blocked_s(self, within_s: float = _ANSWER_WITHIN_S) -> float:
        """For how long the loop has not turned, seconds; 0 where it answers within `within_s`.

        Counted from the first question that it left open, so that who asks again and again sees it grow.
        """
        if self._answered is None or self._answered.is_set():
            answered = self._answered = asyncio.Event()
            self._asked_at = time.monotonic()
            here = asyncio.get_running_loop()
            self.loop.call_soon_threadsafe(self._turned, here, answered)
        try:
            await asyncio.wait_for(self._answered.wait(), within_s)
        except TimeoutError:
            return time.monotonic() - self._asked_at
        return 0.0

    def _turned(self, asker: asyncio.AbstractEventLoop, answered: asyncio.Event) -> None:
        self.latency_ms.add(1000 * (time.monotonic() - self._asked_at))
        asker.call_soon_threadsafe(answered.set)

    def tasks(self) -> int:
        """How many tasks of the loop are not done."""
        return len(asyncio.all_tasks(self.loop))


def serve_vitals(
    path: Path,
    secret: bytes,
    replica_id: str,
    probe: LoopProbe,
    phase: Callable[[], str],
    ongoing: Callable[[], int],
    metrics: Callable[[str], Awaitable[list[Family]]],
    watch: Callable[[], Coroutine[Any, Any, None]] | None = None,
    **more: Callable[..., Any],
) -> None:
    """Answer `vitals`, `stacks`, `metrics` with what `metrics` returns for a prefix, and the control calls in `more`,
    on the Unix socket `path`, from a new daemon thread. `watch` runs there as well."""

    async def vitals() -> ReplicaVitals:
        return ReplicaVitals(
            replica_id=replica_id,
            pid=os.getpid(),
            phase=phase(),
            loop_blocked_s=await probe.blocked_s(),
            ongoing=ongoing(),
        )

    async def stacks() -> ProcessStacks:
        return process_stacks(probe.loop)

    async def tell_metrics(prefix: str) -> list[Family]:
        return await metrics(prefix)

    async def serve() -> None:
        # Kept in a variable: this loop may be uvloop's, which closes a server that nobody refers to.
        handlers: dict[str, Callable[..., Any]] = {"vitals": vitals, "metrics": tell_metrics, "stacks": stacks, **more}
        serving = await RpcServer(handlers).start(listener, secret)
        # A task of its own: whatever becomes of it, vitals are told.
        watching = None if watch is None else asyncio.create_task(watch())
        await asyncio.get_running_loop().create_future()
        serving.close()
        del watching

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    listener.setblocking(False)
    threading.Thread(target=asyncio.run, args=(serve(),), name="headrace-vitals", daemon=True).start()
