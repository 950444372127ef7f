"""What the controller tells when it is scraped: the state of deployments, and what has happened to their replicas."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config.spec import ApplicationStatus
from headrace.controller.deployment_manager import DeploymentManager
from headrace.controller.replica_counts import DeploymentCounts
from headrace.controller.replica_machine import Phase
from headrace.controller.replica_runner import ReplicaRunner
from headrace.engine.process import NodeInfo
from headrace.observe import catalogue
from headrace.observe.collectors import add_collector
from headrace.observe.exposition import Family
from headrace.observe.scraper import ALIVE_WITHIN_S, ANSWER_WITHIN_S, CONTROLLER, Scraper
from headrace.wire.rpc import ask

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Ray Serve's numbers.
_DEPLOYMENT_STATUSES = ("DEPLOY_FAILED", "UNHEALTHY", "UPDATING", "UPSCALING", "DOWNSCALING", "HEALTHY")
_APPLICATION_STATUSES = ("DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED", "DELETING", "DEPLOYING", "RUNNING")

Labels = dict[str, str]


class ControllerMetrics:
    """
    Args:
        prefix: of the names of metrics.
        managers, statuses: what there is at the moment.
        counts: by application and deployment, also those that are deleted: a counter never falls.
        loops: how often the controller has looked at what is to be done.
        nodes: asks for the machines.
    """

    def __init__(
        self,
        session_dir: Path,
        secret: bytes,
        prefix: str,
        managers: Callable[[], list[DeploymentManager]],
        statuses: Callable[[], list[ApplicationStatus]],
        counts: dict[tuple[str, str], DeploymentCounts],
        loops: Callable[[], int],
        nodes: Callable[[], Awaitable[list[NodeInfo]]],
    ) -> None:
        # Of the process, so that one that is started again begins new series and no counter falls.
        self._actor = {"actor_id": f"controller-{os.getpid()}"}
        self._secret = secret
        self._managers = managers
        self._statuses = statuses
        self._counts = counts
        self._loops = loops
        self._nodes = nodes
        self._nodes_alive: list[bool] = []
        self._scraper = Scraper(session_dir, CONTROLLER, prefix, "controller", self._actor["actor_id"], self._ask)
        add_collector(self._own, labelled=True)

    async def scrape(self) -> bytes:
        """See `Scraper.scrape`."""
        await self._look_at_nodes()
        return await self._scraper.scrape()

    async def families(self, prefix: str) -> list[Family]:
        """See `Scraper.own_families`."""
        await self._look_at_nodes()
        return await self._scraper.own_families(prefix)

    async def _look_at_nodes(self) -> None:
        self._nodes_alive = [node.alive for node in await self._nodes()]

    async def _ask(self, path: str, prefix: str) -> list[Family]:
        answer: list[Family] = await ask(
            path,
            self._secret,
            "metrics",
            prefix,
            type=list[Family],
            connect_within_s=ALIVE_WITHIN_S,
            timeout_s=ANSWER_WITHIN_S,
        )
        return answer

    def _own(self) -> Iterator[Metric]:
        return chain(
            self._of_replicas(), self._of_autoscaling(), self._of_statuses(), self._of_nodes(), self._of_events()
        )

    def _of_replicas(self) -> Iterator[Metric]:
        managers = [(manager, _labels(manager.app, manager.name)) for manager in self._managers()]
        yield from catalogue.HEALTHY.family(
            ({**labels, "replica": runner.replica_id}, float(_is_healthy(runner)))
            for manager, labels in managers
            for runner in manager.runners.values()
        )
        yield from catalogue.HEALTHY_TOTAL.family(
            (labels, sum(_is_healthy(runner) for runner in manager.runners.values())) for manager, labels in managers
        )
        yield from catalogue.TARGET_REPLICAS.family(
            (labels, 0 if manager.deleting else manager.num_replicas) for manager, labels in managers
        )

    def _of_autoscaling(self) -> Iterator[Metric]:
        scaled = [
            (_labels(manager.app, manager.name), status, config.target_ongoing_requests)
            for manager in self._managers()
            if (status := manager.status().autoscaling) is not None
            and (config := manager.options.autoscaling_config) is not None
        ]
        yield from catalogue.AUTOSCALING_REQUESTS.family(
            (labels, status.queued + status.running) for labels, status, _ in scaled
        )
        yield from catalogue.TARGET_ONGOING.family((labels, target) for labels, _, target in scaled if target)
        for family, values in (
            (catalogue.DESIRED_REPLICAS, [(labels, status.needed) for labels, status, _ in scaled]),
            (catalogue.MIN_REPLICAS, [(labels, status.min_replicas) for labels, status, _ in scaled]),
            (catalogue.MAX_REPLICAS, [(labels, status.max_replicas) for labels, status, _ in scaled]),
        ):
            yield from family.family((labels, value) for labels, value in values if value is not None)

    def _of_statuses(self) -> Iterator[Metric]:
        statuses = self._statuses()
        yield from catalogue.APPLICATION_STATUS.family(
            ({"application": status.name}, _number(status.status, _APPLICATION_STATUSES)) for status in statuses
        )
        yield from catalogue.DEPLOYMENT_STATUS.family(
            (_labels(status.name, deployment.name), _number(deployment.status, _DEPLOYMENT_STATUSES))
            for status in statuses
            for deployment in status.deployments
        )

    def _of_nodes(self) -> Iterator[Metric]:
        alive = self._nodes_alive.count(True)
        lost = len(self._nodes_alive) - alive
        yield from catalogue.NODES.family([({"state": "ALIVE"}, alive), ({"state": "LOST"}, lost)])
        placed = [
            (_labels(manager.app, manager.name), Counter(r.node for r in manager.runners.values() if r.node))
            for manager in self._managers()
        ]
        yield from catalogue.NODE_REPLICAS.family(
            ({**labels, "node": node}, count) for labels, nodes in placed for node, count in nodes.items()
        )

    def _of_events(self) -> Iterator[Metric]:
        known = [({**_labels(*key), **self._actor}, counts) for key, counts in self._counts.items()]
        yield from catalogue.FAILURES.family(
            ({**labels, "cause": cause}, count) for labels, counts in known for cause, count in counts.failures.items()
        )
        yield from catalogue.HEALTH_CHECK_FAILURES.family(
            ({**labels, "replica": replica_id}, count)
            for labels, counts in known
            for replica_id, count in counts.health_check_failures.items()
        )
        yield from catalogue.HEALTH_CHECK_TIME.family((labels, counts.health_check_ms) for labels, counts in known)
        yield from catalogue.STARTUP_TIME.family((labels, counts.startup_ms) for labels, counts in known)
        yield from catalogue.INITIALIZATION_TIME.family((labels, counts.initialization_ms) for labels, counts in known)
        yield from catalogue.RECONFIGURE_TIME.family((labels, counts.reconfigure_ms) for labels, counts in known)
        yield from catalogue.SHUTDOWN_TIME.family((labels, counts.shutdown_ms) for labels, counts in known)
        yield from catalogue.CONTROL_LOOPS.family([(self._actor, self._loops())])


def _labels(app: str, deployment: str) -> Labels:
    return {"application": app, "deployment": deployment}


def _is_healthy(runner: ReplicaRunner) -> bool:
    replica = runner.replica
    return replica.phase is Phase.RUNNING and not replica.health_failures


def _number(status: str, numbered: tuple[str, ...]) -> int:
    return numbered.index(status) + 1 if status in numbered else 0
