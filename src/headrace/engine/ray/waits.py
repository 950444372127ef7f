"""Why processes that are being started are not there yet, from what the cluster's machines have left."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from headrace.engine.placement import Room, why_not
from headrace.engine.ray.agents import Agents
from headrace.engine.resources import ResourceRequest

logger = logging.getLogger("headrace.controller")

LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Starting:
    """A process that is being started: what it needs, its actor once Ray has been asked for it, and the name of its
    placement group, "" for none."""

    request: ResourceRequest
    actor: Any | None
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
        reasons = {}
        for name, starting in self._starting().items():
            refusal = why_not(starting.request, rooms)
            # What has its place already has taken it from what is left.
            if refusal is not None and not await asyncio.to_thread(_has_place, starting):
                reasons[name] = refusal.reason
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


def _has_place(starting: Starting) -> bool:
    """Whether Ray has found a place for a process, which is perhaps not there yet: that takes Ray seconds."""
    if starting.group:
        groups = ray.util.placement_group_table().values()
        return any(told["name"] == starting.group and told["state"] == "CREATED" for told in groups)
    if starting.actor is None:
        return False
    told = ray._private.state.actors(starting.actor._actor_id.hex())
    # The address of a worker: until there is one for it, an actor has that of a machine which looks for one.
    return bool(told and told["Address"]["Port"])


def _ours(resources: dict[str, float]) -> dict[str, float]:
    """Without those that name a machine, and the shares of placement groups."""
    return {
        name: amount for name, amount in resources.items() if not name.startswith("node:") and "_group_" not in name
    }
