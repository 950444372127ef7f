"""How long requests to one deployment have taken, as their caller saw it."""

from __future__ import annotations

from headrace.config.latency_sketch import bucket_of


class Latencies:
    """Kept only where a deployment scales by them: otherwise a request costs no look at the clock.

    Args:
        target_s: how long a request may take, seconds.
    """

    __slots__ = ("_counts", "target_s")

    def __init__(self, target_s: float) -> None:
        self.target_s = target_s
        self._counts: dict[int, int] = {}

    def answered(self, seconds: float) -> None:
        """A request was answered in full, so long after it came."""
        bucket = bucket_of(seconds)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def given_up(self, seconds: float) -> None:
        """Somebody waits no more. If that was too long already, it is as slow as an answer: deadlines must not make a
        deployment that misses them look quick."""
        if seconds > self.target_s:
            self.answered(seconds)

    def take(self) -> dict[int, int]:
        """What has come since this was last called, by bucket."""
        counts, self._counts = self._counts, {}
        return counts
