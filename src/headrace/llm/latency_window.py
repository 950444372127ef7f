"""Latencies of the last minute, and their quantiles."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class LatencyWindow:
    """
    Args:
        window_s: for how long a latency counts, seconds.
        most: how many are kept; older ones make room.
        clock: tells seconds.
    """

    def __init__(self, window_s: float = 60.0, most: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._latencies: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, latency_s: float) -> None:
        """Take down a latency, seconds."""
        self._latencies.append((self._clock(), latency_s))

    def quantile(self, share: float) -> float | None:
        """The latency that `share` of them (from 0 to 1) do not exceed, seconds; None where there was none."""
        since = self._clock() - self._window_s
        while self._latencies and self._latencies[0][0] < since:
            self._latencies.popleft()
        if not self._latencies:
            return None
        ordered = sorted(latency for _, latency in self._latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
