"""How values are spread, counted in plain integers: what the request path can afford."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

LATENCY_MS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500),
    *(1_000, 2_000, 5_000, 10_000, 60_000, 120_000, 300_000, 600_000),
)
"""Ray Serve's bounds of requests' latencies, batches' times and models' loading times."""

STARTUP_MS = (5, 20, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 240_000)
"""Ray Serve's bounds of the times that replicas take to start and to stop."""

LOOP_MS = (1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
"""Ray Serve's bounds of event loops' latencies."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PERCENT = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)


class Buckets:
    """A histogram. Added to by one thread without a lock; another may read it meanwhile, and may see the last value
    in its bucket and not yet in the sum.

    Attributes:
        bounds: upper bounds of the buckets, rising; above the last there is one more.
        counts: how many values are in each.
        sum: of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def include(self, other: Buckets) -> None:
        """Add all of another histogram with the same bounds."""
        self.counts = [own + others for own, others in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, the last one infinite, with how many values are not above it."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), list(self.counts), strict=True):
            total += count
            yield bound, total
