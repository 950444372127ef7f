"""What has happened to the replicas of each deployment, counted for metrics since this controller began."""

from __future__ import annotations

from headrace.controller.replica_machine import (
    Cause,
    FoundStopped,
    HealthFailed,
    HealthTimedOut,
    Phase,
    Replica,
)
from headrace.observe.buckets import LATENCY_MS, STARTUP_MS, Buckets


class DeploymentCounts:
    """
    Attributes:
        health_check_ms: how long health checks took.
        startup_ms: from the decision to start a replica until it served.
        initialization_ms: from the start of its process until it served.
        reconfigure_ms: how long replicas took to take on options.
        shutdown_ms: from telling a replica to stop until its process was gone.
        failures: replicas that failed, by cause.
        health_check_failures: by replica, of those that are there.
    """

    __slots__ = (
        "failures",
        "health_check_failures",
        "health_check_ms",
        "initialization_ms",
        "reconfigure_ms",
        "shutdown_ms",
        "startup_ms",
    )

    def __init__(self) -> None:
        self.health_check_ms = Buckets(LATENCY_MS)
        self.startup_ms = Buckets(STARTUP_MS)
        self.initialization_ms = Buckets(STARTUP_MS)
        self.reconfigure_ms = Buckets(LATENCY_MS)
        self.shutdown_ms = Buckets(STARTUP_MS)
        # From 0 on: `increase` cannot see the first failure of a series that begins with it.
        self.failures = {cause.value: 0 for cause in Cause}
        self.health_check_failures: dict[str, int] = {}


class ReplicaTimes:
    """Adds what happens to one replica to its deployment's counts.

    Args:
        decided_at: when it was decided to start it, on the clock that `moved` is told of.
    """

    def __init__(self, counts: DeploymentCounts, replica_id: str, decided_at: float) -> None:
        self._counts = counts
        self._replica_id = replica_id
        self._decided_at = decided_at
        self._process_at: float | None = None  # stays None for one that an earlier controller started
        self._stop_at: float | None = None

    def moved(self, before: Replica, after: Replica, now: float) -> None:
        """It is in another state than before."""
        counts = self._counts
        if before.pid is None and after.pid is not None and after.phase is Phase.STARTING:
            self._process_at = now
        if after.phase is not before.phase:
            if after.phase is Phase.RUNNING:
                counts.health_check_failures.setdefault(self._replica_id, 0)
            if after.phase is Phase.RUNNING and self._process_at is not None:
                counts.startup_ms.add(1000 * (now - self._decided_at))
                counts.initialization_ms.add(1000 * (now - self._process_at))
            elif after.phase is Phase.DRAINING:
                self._stop_at = now
            elif after.phase is Phase.FAILED and after.cause is not None:
                counts.failures[after.cause.value] += 1
        if after.process_gone and not before.process_gone:
            counts.health_check_failures.pop(self._replica_id, None)
            if self._stop_at is not None:
                counts.shutdown_ms.add(1000 * (now - self._stop_at))

    def checked(self, finding: object, seconds: float) -> None:
        """Its health was looked at; `finding` is an event of the state machine."""
        self._counts.health_check_ms.add(1000 * seconds)
        if isinstance(finding, HealthFailed | HealthTimedOut | FoundStopped):
            failures = self._counts.health_check_failures
            failures[self._replica_id] = failures.get(self._replica_id, 0) + 1

    def reconfigured(self, seconds: float) -> None:
        self._counts.reconfigure_ms.add(1000 * seconds)
