"""What user code may ask about where it runs."""

from __future__ import annotations

from headrace.exceptions import HeadraceError
from headrace.router.context import RequestContext, current
from headrace.router.replica_context import (
    DeploymentID,
    GangContext,
    ReplicaContext,
    ReplicaID,
    ReplicaRank,
    current_replica,
)

__all__ = [
    "DeploymentID",
    "GangContext",
    "ReplicaContext",
    "ReplicaID",
    "ReplicaRank",
    "RequestContext",
    "get_replica_context",
    "get_request_context",
]


def get_replica_context() -> ReplicaContext:
    """The replica that this code runs in.

    Raises:
        HeadraceError: called outside of a replica.
    """
    context = current_replica()
    if context is None:
        raise HeadraceError("get_replica_context() may only be called within a replica (not in a driver script)")
    return context


def get_request_context() -> RequestContext | None:
    """The request that this task or thread works on: its id, route, model and deadline. None outside of any."""
    return current()
