"""Calls that one replica alone can answer: those to every replica of a deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

if TYPE_CHECKING:
    from headrace.router.call import RoutedCall
    from headrace.router.link import ReplicaLink
    from headrace.router.router import Router

_RETRY_S = 0.02


async def each_replica(router: Router) -> list[OneReplica]:
    """The replicas that take requests now, each as what sends calls to it. Waits until they are known and connected.

    Raises:
        DeploymentUnavailableError: there is none.
    """
    await router.populated()
    if router.unavailable is not None:
        raise DeploymentUnavailableError(router.unavailable)
    if not router.reachable:
        raise DeploymentUnavailableError(f"deployment {router.deployment!r} has no replica")
    return [OneReplica(router, link) for link in router.reachable]


class OneReplica:
    """Stands in for the router to calls that must not go anywhere else.

    Args:
        router: of the deployment.
        link: to the replica.
    """

    latencies = None

    def __init__(self, router: Router, link: ReplicaLink) -> None:
        self._router = router
        self._link = link

    def submit(self, call: RoutedCall) -> None:
        """Send a call, whether or not the replica has room."""
        if call.settled:
            return
        if self._link.connection is None:
            self.lost(call)
            return
        call.router = self  # type: ignore[assignment]
        self._link.send(call)

    def requeue(self, call: RoutedCall) -> None:
        """The replica is full; it is asked again soon."""
        self._router.loop.call_later(_RETRY_S, self.submit, call)

    def lost(self, call: RoutedCall) -> None:
        """The replica is gone."""
        call.fail(ReplicaUnavailableError(f"the replica {self._link.replica_id} is gone"))

    def left_queue(self) -> None:
        """A call that was to be sent again was cancelled; `submit` sees that."""
