"""What a proxy tells the controller of its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from headrace.config.observed import Ended, EndedQuery, EndedRequest, Tally
from headrace.observe.ended import EndedRequests
from headrace.observe.http_counts import HttpCounts
from headrace.router.hub import RouterHub
from headrace.router.outbound import calls_to, targets, waits


class ProxyObserved:
    """
    Args:
        counts, ended: what it has answered.
        hub: holds its routers.
    """

    def __init__(self, counts: HttpCounts, ended: EndedRequests, hub: RouterHub) -> None:
        self._counts = counts
        self._ended = ended
        self._hub = hub
        self._began = time.monotonic()

    def handlers(self) -> Mapping[str, Callable[..., Any]]:
        """The control calls `tally` and `ended`."""
        return {"tally": self.tally, "ended": self.ended}

    async def tally(self) -> Tally:
        return Tally(counting_s=time.monotonic() - self._began, ongoing=self._counts.ongoing, calls=calls_to(self._hub))

    async def ended(self, query: EndedQuery) -> Ended:
        now = time.monotonic()
        since, to_unix = now - query.within_s, time.time() - now
        if query.ids:
            entries = self._ended.of_ids(frozenset(query.ids), since)
        else:
            entries = self._ended.first(
                query.kind, query.limit, since, (lambda entry: entry[6] == query.app) if query.app else None
            )
        return Ended(
            requests=[
                EndedRequest(request_id, ended + to_unix, took_s, failure, method, route, app, status)
                for request_id, ended, took_s, failure, method, route, app, status in entries
            ],
            waits=waits(self._hub, query.ids, to_unix),
            targets=targets(self._hub),
        )
