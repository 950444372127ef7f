"""The HTTP requests that a proxy has answered, counted on its request path."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LATENCY_MS, Buckets
from headrace.observe.request_counts import in_milliseconds

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_BOUNDS_S = tuple(bound / 1000 for bound in LATENCY_MS)

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "WS"))
"""Others are counted as one: clients may make up as many as they like."""


class RouteCounts:
    """What was answered on one route, by one application's ingress deployment. `kinds`: by method and status."""

    __slots__ = ("app", "ingress", "kinds", "route")

    def __init__(self, app: str, ingress: str, route: str) -> None:
        self.app = app
        self.ingress = ingress
        self.route = route
        self.kinds: dict[tuple[str, int], Buckets] = {}

    def record(self, method: str, status: int, seconds: float) -> None:
        """A request was answered; a WebSocket's `method` is `WS`, its `status` the code that it was closed with."""
        try:
            latency = self.kinds[method, status]
        except KeyError:
            latency = self.kinds.setdefault((method if method in _METHODS else "other", status), Buckets(_BOUNDS_S))
        latency.counts[bisect_left(_BOUNDS_S, seconds)] += 1  # `Buckets.add`, without a call
        latency.sum += seconds


class HttpCounts:
    """Counts by application, route, method and status. Lives on one event loop.

    Attributes:
        ongoing: requests and WebSockets that are being worked on.
        nowhere: requests for which there was no route.
    """

    __slots__ = ("_routes", "nowhere", "ongoing")

    def __init__(self) -> None:
        self.ongoing = 0
        self._routes: dict[tuple[str, str, str], RouteCounts] = {}
        self.nowhere = self.of("", "", "")

    def of(self, app: str, ingress: str, route: str) -> RouteCounts:
        """The counts of a route; kept when the route is gone, and gone on with when it is there again."""
        return self._routes.setdefault((app, ingress, route), RouteCounts(app, ingress, route))

    def families(self, actor_id: str) -> Iterator[Metric]:
        # An application may have had several ingress deployments, one after the other.
        by_status: dict[tuple[str, str, str, int], Buckets] = {}
        of_deployments = []
        for counts in self._routes.values():
            app, route = counts.app, counts.route
            for (method, status), latency in counts.kinds.items():
                by_status.setdefault((app, route, method, status), Buckets(_BOUNDS_S)).include(latency)
                if counts.ingress and _is_error(method, status):
                    labels = _labels(app, route, method, actor_id)
                    failed = {"deployment": counts.ingress, **labels, "error_code": str(status)}
                    of_deployments.append((failed, sum(latency.counts)))
        requests, latencies, errors = [], [], []
        for (app, route, method, status), latency in by_status.items():
            labels = _labels(app, route, method, actor_id)
            answered = {**labels, "status_code": str(status)}
            count = sum(latency.counts)
            requests.append((answered, count))
            latencies.append((answered, in_milliseconds(latency)))
            if _is_error(method, status):
                errors.append(({**labels, "error_code": str(status)}, count))
        yield from catalogue.HTTP_REQUESTS.family(requests)
        yield from catalogue.HTTP_ERRORS.family(errors)
        yield from catalogue.HTTP_DEPLOYMENT_ERRORS.family(of_deployments)
        yield from catalogue.HTTP_LATENCY.family(latencies)
        yield from catalogue.HTTP_ONGOING.family([({"actor_id": actor_id}, self.ongoing)])


_CLOSED_WELL = (1000, 1001)


def _is_error(method: str, status: int) -> bool:
    return status >= 400 and not (method == "WS" and status in _CLOSED_WELL)


def _labels(app: str, route: str, method: str, actor_id: str) -> dict[str, str]:
    return {"application": app, "route": route, "method": method, "actor_id": actor_id}
