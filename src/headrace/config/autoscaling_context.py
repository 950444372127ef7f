"""What an autoscaling policy of the user's is told of a deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headrace.config.ids import DeploymentID, ReplicaID

if TYPE_CHECKING:
    from headrace.config.autoscaling import AutoscalingConfig


@dataclass(order=True)
class TimeStampedValue:
    """One measurement. `timestamp`: Unix time, seconds."""

    timestamp: float
    value: float = field(compare=False)


@dataclass(kw_only=True)
class AutoscalingContext:
    """One deployment, as its autoscaling policy sees it. Times are Unix times, seconds.

    Attributes:
        deployment_id: the deployment; `deployment_name` and `app_name` are its parts.
        current_num_replicas: replicas that serve. `running_replicas`: which ones.
        target_num_replicas: how many are wanted at present.
        total_num_requests: requests queued at callers and running at replicas, aggregated over `look_back_period_s`
            with `aggregation_function`. `total_queued_requests`: the queued ones alone.
        aggregated_metrics: what replicas tell of themselves (`record_autoscaling_stats`): metric to replica to value.
        raw_metrics: the same as measurements over time, oldest first.
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas: the bounds that hold at this moment.
        policy_state: what the policy returned as its state when it was last asked; empty at first.
        last_scale_up_time, last_scale_down_time: when autoscaling last changed the target; None for not yet.
        current_time: now.
        config: the deployment's `autoscaling_config`.
    """

    deployment_id: DeploymentID
    deployment_name: str
    app_name: str | None = None
    current_num_replicas: int
    target_num_replicas: int
    running_replicas: Sequence[ReplicaID] = ()
    total_num_requests: float
    total_queued_requests: float = 0.0
    aggregated_metrics: Mapping[str, Mapping[ReplicaID, float]] = field(default_factory=dict)
    raw_metrics: Mapping[str, Mapping[ReplicaID, Sequence[TimeStampedValue]]] = field(default_factory=dict)
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: dict[str, Any] = field(default_factory=dict)
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    current_time: float
    config: AutoscalingConfig

    @property
    def total_running_requests(self) -> float:
        """`total_num_requests` without those that are queued."""
        return max(0.0, self.total_num_requests - self.total_queued_requests)
