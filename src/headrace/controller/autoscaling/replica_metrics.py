"""What replicas tell of themselves (`record_autoscaling_stats`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from headrace.controller.autoscaling.caller_loads import expiry


class ReplicaMetrics:
    """The last word of each replica. One that is gone, or silent for long, counts no more."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[dict[str, float], float]] = {}

    def record(self, replica_id: str, metrics: Mapping[str, float], now: float, interval_s: float) -> None:
        """`interval_s`: how soon the replica will say something again."""
        self._told[replica_id] = (dict(metrics), expiry(now, interval_s))

    def forget(self, replica_id: str) -> bool:
        """The replica serves no more. Returns whether it had told anything."""
        return self._told.pop(replica_id, None) is not None

    def expire(self, now: float) -> None:
        for replica_id in [replica_id for replica_id, (_, expires_at) in self._told.items() if expires_at <= now]:
            del self._told[replica_id]

    @property
    def next_expiry(self) -> float:
        """When the next replica is given up; infinity where there is none."""
        return min((expires_at for _, expires_at in self._told.values()), default=math.inf)

    @property
    def by_metric(self) -> dict[str, dict[str, float]]:
        """Metric to replica to value."""
        found: dict[str, dict[str, float]] = {}
        for replica_id, (metrics, _) in self._told.items():
            for name, value in metrics.items():
                found.setdefault(name, {})[replica_id] = value
        return found
