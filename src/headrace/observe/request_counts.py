"""The requests that a replica has worked on, counted on its request path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LATENCY_MS, Buckets

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_BOUNDS_S = tuple(bound / 1000 for bound in LATENCY_MS)


class RequestCounts:
    """Counts by route. Lives on one event loop; may be read from any thread."""

    __slots__ = ("_errors", "_latencies", "_succeeded")

    def __init__(self) -> None:
        self._latencies: dict[str, Buckets] = {}
        self._succeeded: dict[str, int] = {}
        self._errors: dict[tuple[str, str], int] = {}

    def record(self, route: str, seconds: float, failure: str | None) -> None:
        """A request is done. `failure`: name of the exception that it ended with, None for none."""
        try:
            latency = self._latencies[route]
        except KeyError:
            latency = self._latencies[route] = Buckets(_BOUNDS_S)
            self._succeeded[route] = 0
        latency.counts[bisect_left(_BOUNDS_S, seconds)] += 1  # `Buckets.add`, without a call
        latency.sum += seconds
        if failure is None:
            self._succeeded[route] += 1
        else:
            self._errors[route, failure] = self._errors.get((route, failure), 0) + 1

    def families(self) -> Iterator[Metric]:
        yield from catalogue.REQUESTS.family(({"route": r}, count) for r, count in list(self._succeeded.items()))
        errors = list(self._errors.items())
        yield from catalogue.ERRORS.family(({"route": r, "exception_type": f}, count) for (r, f), count in errors)
        latencies = list(self._latencies.items())
        yield from catalogue.LATENCY.family(({"route": r}, in_milliseconds(counted)) for r, counted in latencies)


def in_milliseconds(seconds: Buckets) -> Buckets:
    """What was counted in seconds, as it is exported."""
    counted = Buckets(LATENCY_MS)
    counted.counts = list(seconds.counts)
    counted.sum = seconds.sum * 1000
    return counted
