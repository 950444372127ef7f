"""What a replica tells when it is scraped."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.collectors import add_collector, collect_process
from headrace.observe.exposition import Family
from headrace.observe.router_loads import router_families
from headrace.observe.utilization import Utilization
from headrace.replica.service import ReplicaService
from headrace.replica.vitals import LoopProbe
from headrace.router.hub import RouterHub

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_ASK_LOOP_FOR_S = 0.2


class ReplicaMetrics:
    """Gathers them on the thread that tells vitals: also while user code blocks the event loop.

    Args:
        service: counts the requests.
        probe: looks at the event loop.
        hub: holds the routers to what user code calls.
    """

    def __init__(
        self, app: str, deployment: str, replica_id: str, service: ReplicaService, probe: LoopProbe, hub: RouterHub
    ) -> None:
        self._labels = {"application": app, "deployment": deployment, "replica": replica_id}
        self._replica_id = replica_id
        self._service = service
        self._probe = probe
        self._hub = hub
        self._blocked_s = 0.0
        self._utilization = Utilization(monotonic())
        add_collector(self._own)
        add_collector(self._calls, labelled=True)

    async def families(self, prefix: str) -> list[Family]:
        """Everything that this process has to tell, as text."""
        self._blocked_s = await self._probe.blocked_s(_ASK_LOOP_FOR_S)
        return collect_process(prefix, self._labels)

    def _own(self) -> Iterator[Metric]:
        service, probe = self._service, self._probe
        loop = {"component": "replica", "loop_type": "user_code", "actor_id": self._replica_id}
        yield from catalogue.STARTS.family([({}, 1)])
        yield from service.counts.families()
        yield from catalogue.PROCESSING.family([({}, service.ongoing)])
        used = self._utilization.percent(monotonic(), service.counts.worked_s, service.max_ongoing)
        yield from catalogue.UTILIZATION.family([({}, used)])
        yield from catalogue.LOOP_BLOCKED.family([({}, self._blocked_s)])
        yield from catalogue.LOOP_LATENCY.family([(loop, probe.latency_ms)])
        yield from catalogue.LOOP_TASKS.family([(loop, probe.tasks())])

    def _calls(self) -> Iterator[Metric]:
        yield from router_families(list(self._hub.known_routers()), self._replica_id, through_handles=True)
