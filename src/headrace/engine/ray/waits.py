"""Why processes that are being started are not there yet, from what the cluster's machines have left."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray

from headrace.engine.amounts import parts
from headrace.engine.bundles import bundles_of
from headrace.engine.placement import Room, why_not
from headrace.engine.ray.agents import Agents
from headrace.engine.resources import ResourceRequest

logger = logging.getLogger("headrace.controller")

LOOK_EVERY_S = 1.0

RAY_S = 10
"""For how long Ray is waited for."""

Shape = frozenset[tuple[str, int]]
"""Resources with their amounts, in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A process that is being started: what it needs, and the name of its placement group, "" for none."""

    request: ResourceRequest
    group: str


class Waits:
    """
    Args:
        agents: the machines.
        starting: the processes that are being started, by name.
        running: the machine, and the group, of each process that runs.
    """

    def __init__(
        self,
        agents: Agents,
        starting: Callable[[], dict[str, Starting]],
        running: Callable[[], list[tuple[str, str]]],
    ) -> None:
        self._agents = agents
        self._starting = starting
        self._running = running
        self._reasons: dict[str, str] = {}

    def reason(self, name: str) -> str | None:
        return self._reasons.get(name)

    def forget(self, name: str) -> None:
        self._reasons.pop(name, None)

    async def keep(self) -> None:
        """Look for ever, as long as anything is being started."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._starting():
                try:
                    await self._look()
                except Exception as error:
                    logger.warning("cannot look at what the cluster has left: %s", error)

    async def _look(self) -> None:
        rooms = await asyncio.to_thread(self._rooms)
        starting = self._starting()
        refusals = {name: why_not(each.request, rooms) for name, each in starting.items()}
        reasons = {name: refusal.reason for name, refusal in refusals.items() if refusal is not None}
        if reasons:
            # What has its place already has taken it from what is left.
            placed = await asyncio.to_thread(_placed, {name: starting[name] for name in reasons})
            reasons = {name: reason for name, reason in reasons.items() if name not in placed}
        self._reasons = {name: reason for name, reason in reasons.items() if name in self._starting()}

    def _rooms(self) -> list[Room]:
        left = ray._private.state.available_resources_per_node()
        counts: dict[str, Counter[str]] = {}
        for node, group in self._running():
            counts.setdefault(node, Counter())[group] += 1
        return [
            Room(
                total=_ours(node["Resources"]),
                available=_ours(left.get(node["NodeID"], {})),
                labels=dict(node.get("Labels") or {}),
                counts=dict(counts.get(node["NodeID"], {})),
            )
            for node in self._agents.alive()
        ]


def _placed(starting: Mapping[str, Starting]) -> set[str]:
    """Those for which Ray has found a place, though they are not there yet: a worker takes seconds to start, an
    environment with packages minutes."""
    groups = {told["name"] for told in ray.util.placement_group_table().values() if told["state"] == "CREATED"}
    queued = _queued_shapes()
    return {
        name
        for name, each in starting.items()
        if (each.group in groups if each.group else _shape(bundles_of(each.request)[0].amounts) not in queued)
    }


def _queued_shapes() -> set[Shape]:
    """The resources of all that waits for some, wherever on the cluster. What waits for its worker does not."""
    usage = ray._private.worker.global_worker.gcs_client.get_all_resource_usage(timeout=RAY_S)
    demands = usage.resource_usage_data.resource_load_by_shape.resource_demands
    return {
        _shape(each.shape)
        for each in demands
        if each.num_ready_requests_queued or each.num_infeasible_requests_queued or each.backlog_size
    }


def _shape(amounts: Mapping[str, float]) -> Shape:
    # Without what stands for `max_per_node`.
    own = {name: a for name, a in amounts.items() if not name.startswith(ray._raylet.IMPLICIT_RESOURCE_PREFIX)}
    return frozenset((name, parts(amount)) for name, amount in own.items() if parts(amount))


def _ours(resources: dict[str, float]) -> dict[str, float]:
    """Without those that name a machine, and the shares of placement groups."""
    return {
        name: amount for name, amount in resources.items() if not name.startswith("node:") and "_group_" not in name
    }
