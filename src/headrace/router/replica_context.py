"""Which replica this process is; set by the replica before user code runs, read by `get_replica_context`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from headrace.config.ids import DeploymentID as DeploymentID
from headrace.config.ids import ReplicaID as ReplicaID

logger = logging.getLogger("headrace.replica")


@dataclass(frozen=True)
class ReplicaRank:
    """A replica's place among those of its deployment, from 0: among all, and on its machine."""

    rank: int = 0
    node_rank: int = 0
    local_rank: int = 0


@dataclass(frozen=True)
class GangContext:
    """A replica's gang: the replicas that start and end together, and its place among them.

    Attributes:
        gang_id: unique among the gangs of the instance, over time too: a gang that replaces another has another one.
        rank: its place, from 0. It does not change.
        world_size: how many replicas the gang has.
        member_replica_ids: these, by rank, as `ReplicaContext.replica_id.unique_id` has them.
        pg_name: empty; Ray's placement group of the gang is `ray.util.get_current_placement_group()`.
    """

    gang_id: str
    rank: int
    world_size: int
    member_replica_ids: list[str]
    pg_name: str = ""


@dataclass
class ReplicaContext:
    """What a replica may know of itself.

    Attributes:
        replica_id: its name.
        servable_object: the instance of the user's class, or the user's function; None while the constructor runs.
        rank: its place among the replicas of its deployment; another one after some with lower ranks have gone.
        world_size: how many replicas the deployment had when this one was last told of its rank.
        progress: how far a constructor that takes long is, for people: "loading weights 40%". To be set by user code;
            the deployment's status message shows it.
        gang_context: its gang; None where the deployment has no `gang_scheduling_config`.
    """

    replica_id: ReplicaID
    servable_object: Any = None
    rank: ReplicaRank = ReplicaRank()
    world_size: int = 1
    progress: str = ""
    gang_context: GangContext | None = None
    _end: Callable[[str], None] | None = field(default=None, repr=False, compare=False)

    def fail(self, reason: str) -> None:
        """Say that this replica can serve no more, and why: it ends, and another takes its place.

        For what cannot get better, such as a child process that ended; `check_health` is for what may. The replica
        takes no more requests, those in flight have a second to end, then user code cleans up and the process ends. May
        be called from any thread. In local testing it is logged, and nothing ends.

        Args:
            reason: for people; it is logged.
        """
        logger.error("replica %s can serve no more: %s", self.replica_tag, reason)
        if self._end is not None:
            self._end(reason)

    @property
    def app_name(self) -> str:
        return self.replica_id.deployment_id.app_name

    @property
    def deployment(self) -> str:
        return self.replica_id.deployment_id.name

    @property
    def replica_tag(self) -> str:
        return self.replica_id.unique_id


_context: ReplicaContext | None = None

replica_in_this_process: ContextVar[ReplicaContext | None] = ContextVar("headrace_replica", default=None)
"""Which of several replicas a task or thread belongs to, where one process holds them all (local testing)."""


def current_replica() -> ReplicaContext | None:
    """The replica that this code runs in, or None outside of replicas."""
    return _context if _context is not None else replica_in_this_process.get()


def set_current_replica(context: ReplicaContext | None) -> None:
    global _context
    _context = context
