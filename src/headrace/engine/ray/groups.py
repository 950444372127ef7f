"""Placement groups: one for a process with several bundles, or one for all processes of a gang."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup

from headrace.engine.ray import placing
from headrace.engine.resources import ResourceRequest


class Groups:
    """Who is in which. A group goes when the last of its processes has."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._groups: dict[str, asyncio.Future[PlacementGroup]] = {}

    def find(self, members: dict[str, str]) -> None:
        """Take over the groups of an earlier controller, and remove those that nobody is in. Blocks.

        Args:
            members: processes to the names of their groups, "" for none.
        """
        self._of = {process: group for process, group in members.items() if group}
        wanted = set(self._of.values())
        for id, told in ray.util.placement_group_table().items():
            name = told["name"]
            if not name.startswith(placing.GROUP_PREFIX) or told["state"] == "REMOVED":
                continue
            group = PlacementGroup(PlacementGroupID(bytes.fromhex(id)))
            if name in wanted:
                self._groups[name] = _done(group)
            else:
                ray.util.remove_placement_group(group)

    async def join(self, process: str, request: ResourceRequest) -> PlacementGroup | None:
        """The group of a process, asked for if nobody has; None if it needs none."""
        name = placing.group_name(process, request)
        if name is None:
            return None
        self._of[process] = name
        if name not in self._groups:
            loop = asyncio.get_running_loop()
            self._groups[name] = loop.create_task(asyncio.to_thread(placing.make_group, name, request))
        return await asyncio.shield(self._groups[name])

    async def leave(self, process: str) -> None:
        """A process has ended, or will not be."""
        name = self._of.pop(process, None)
        if name is None or name in self._of.values():
            return
        group = await self._groups.pop(name)
        await asyncio.to_thread(ray.util.remove_placement_group, group)

    def name_of(self, process: str) -> str:
        """Of a process's group; "" if it is in none."""
        return self._of.get(process, "")


def _done(group: Any) -> asyncio.Future[PlacementGroup]:
    future: asyncio.Future[PlacementGroup] = asyncio.Future()
    future.set_result(group)
    return future
