"""What a replica tells the controller of its work, on the thread that tells vitals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from headrace.config.observed import Ended, EndedQuery, EndedRequest, Tally
from headrace.replica.service import ReplicaService
from headrace.router.hub import RouterHub
from headrace.router.outbound import calls_to, targets, waits


class ReplicaObserved:
    """
    Args:
        service: counts the requests.
        hub: holds the routers to what user code calls.
    """

    def __init__(self, service: ReplicaService, hub: RouterHub) -> None:
        self._service = service
        self._hub = hub
        self._began = time.monotonic()

    def handlers(self) -> Mapping[str, Callable[..., Any]]:
        """The control calls `tally` and `ended`."""
        return {"tally": self.tally, "ended": self.ended}

    async def tally(self) -> Tally:
        counts = self._service.counts
        return Tally(
            counting_s=time.monotonic() - self._began,
            ongoing=self._service.ongoing,
            failed=counts.failed,
            latencies=counts.latencies(),
            calls=calls_to(self._hub),
        )

    async def ended(self, query: EndedQuery) -> Ended:
        now = time.monotonic()
        since, to_unix = now - query.within_s, time.time() - now
        kept, ids = self._service.ended, frozenset(query.ids)
        entries = kept.of_ids(ids, since) if ids else kept.first(query.kind, query.limit, since)
        return Ended(
            requests=[
                EndedRequest(request_id, ended + to_unix, took_s, failure, method, route)
                for request_id, ended, took_s, failure, method, route in entries
            ],
            waits=waits(self._hub, query.ids, to_unix),
            targets=targets(self._hub),
        )
