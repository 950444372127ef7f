"""The requests that a replica has worked on, counted on its request path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LATENCY_MS, Buckets
from headrace.observe.recent_max import RecentMax

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_BOUNDS_S = tuple(bound / 1000 for bound in LATENCY_MS)


class _Route(Buckets):
    """Latencies in seconds, the longest of the last minute, and how many of these requests succeeded."""

    __slots__ = ("longest", "succeeded")

    def __init__(self, now: float) -> None:
        super().__init__(_BOUNDS_S)
        self.longest = RecentMax(now)
        self.succeeded = 0


class RequestCounts:
    """Counts by route. Lives on one event loop; may be read from any thread."""

    __slots__ = ("_errors", "_routes")

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._errors: dict[tuple[str, str], int] = {}

    def record(self, route: str, seconds: float, failure: str | None, now: float) -> None:
        """A request is done, `now` by `time.monotonic()`.

        Args:
            failure: name of the exception that it ended with, None for none.
        """
        try:
            counted = self._routes[route]
        except KeyError:
            counted = self._routes[route] = _Route(now)
        counted.counts[bisect_left(_BOUNDS_S, seconds)] += 1  # `Buckets.add`, without a call
        counted.sum += seconds
        longest = counted.longest
        if seconds > longest.current or now >= longest.until:
            longest.add(seconds, now)
        if failure is None:
            counted.succeeded += 1
        else:
            self._errors[route, failure] = self._errors.get((route, failure), 0) + 1

    @property
    def worked_s(self) -> float:
        """Durations of all requests that are done, together, seconds."""
        return sum(counted.sum for counted in list(self._routes.values()))

    @property
    def failed(self) -> int:
        """How many requests have ended with an exception."""
        return sum(list(self._errors.values()))

    def latencies(self) -> list[int]:
        """How many requests have ended, by bucket of `LATENCY_MS`."""
        counts = [0] * (len(LATENCY_MS) + 1)
        for counted in list(self._routes.values()):
            counts = [total + count for total, count in zip(counts, counted.counts, strict=True)]
        return counts

    def families(self) -> Iterator[Metric]:
        routes = [({"route": route}, counted) for route, counted in list(self._routes.items())]
        errors = list(self._errors.items())
        yield from catalogue.REQUESTS.family((labels, counted.succeeded) for labels, counted in routes)
        yield from catalogue.ERRORS.family(({"route": r, "exception_type": f}, count) for (r, f), count in errors)
        yield from catalogue.LATENCY.family((labels, in_milliseconds(counted)) for labels, counted in routes)
        now = monotonic()
        yield from catalogue.LONGEST.family((labels, 1000 * counted.longest.largest(now)) for labels, counted in routes)


def in_milliseconds(seconds: Buckets) -> Buckets:
    """What was counted in seconds, as it is exported."""
    counted = Buckets(LATENCY_MS)
    counted.counts = list(seconds.counts)
    counted.sum = seconds.sum * 1000
    return counted
