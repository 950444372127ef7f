"""What a process's routers have under way, as samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from headrace.observe import catalogue

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class _Load(Protocol):
    @property
    def running(self) -> float: ...


class _Router(Protocol):
    app: str
    deployment: str
    queued: int
    refused: int

    @property
    def submitted(self) -> int: ...
    @property
    def load(self) -> _Load: ...


def router_families(routers: Iterable[_Router], actor_id: str, through_handles: bool) -> Iterator[Metric]:
    """
    Args:
        actor_id: the process.
        through_handles: whether what it sends are calls of user code.
    """
    known = [
        (
            router,
            {
                "application": router.app,
                "deployment": router.deployment,
                "handle": f"{router.app}#{router.deployment}#{actor_id}",
                "actor_id": actor_id,
            },
        )
        for router in routers
    ]
    yield from catalogue.ROUTED.family((labels, router.submitted) for router, labels in known)
    if through_handles:
        yield from catalogue.HANDLE_REQUESTS.family((labels, router.submitted) for router, labels in known)
    yield from catalogue.REFUSED.family((labels, router.refused) for router, labels in known)
    yield from catalogue.QUEUED.family((labels, router.queued) for router, labels in known)
    yield from catalogue.AT_REPLICAS.family((labels, router.load.running) for router, labels in known)
