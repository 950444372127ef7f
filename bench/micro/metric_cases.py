"""What counting costs a request: at the proxy, at a replica, and in user code."""

from __future__ import annotations

from time import monotonic

from bench.micro.timing import Case
from headrace import metrics
from headrace.observe.http_counts import HttpCounts
from headrace.observe.request_counts import RequestCounts

_UNITS = 100


def metric_cases() -> list[Case]:
    """All that a request without user code is counted by: in the proxy `HttpCounts`, in its replica `RequestCounts`."""
    http = HttpCounts()
    of_route = http.of("default", "Model", "/")
    counts = RequestCounts()

    def at_the_proxy() -> None:
        for _ in range(_UNITS):
            began = monotonic()
            http.ongoing += 1
            http.ongoing -= 1
            of_route.record("POST", 200, monotonic() - began)

    def at_a_replica() -> None:
        for _ in range(_UNITS):
            began = monotonic()
            now = monotonic()
            counts.record("/", now - began, None, now)

    words = metrics.Counter("words", tag_keys=("language",))
    sizes = metrics.Histogram("sizes", boundaries=[1, 10, 100])

    def in_user_code() -> None:
        for _ in range(_UNITS):
            words.inc(2, tags={"language": "fr"})
            sizes.observe(5)

    return [
        Case("counting a request", "at the proxy", at_the_proxy, _UNITS),
        Case("counting a request", "at a replica", at_a_replica, _UNITS),
        Case("counting a request", "a counter and a histogram of the user's", in_user_code, _UNITS),
    ]
