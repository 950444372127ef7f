"""What a policy of the user's is told of a deployment."""

from __future__ import annotations

import time

from headrace.config.policy_call import DeploymentFacts
from headrace.controller.autoscaling.autoscaler import Autoscaler
from headrace.controller.autoscaling.metric_windows import MetricWindows


def facts_of(
    autoscaler: Autoscaler, metrics: MetricWindows, deployment: str, running_replicas: list[str], now: float
) -> DeploymentFacts:
    """`now`: on the clock of the autoscaler, which is not the time of day."""
    config, moment = autoscaler.config, time.time()
    ongoing, queued = autoscaler.aggregates(now)
    lowest, highest = autoscaler.bounds
    return DeploymentFacts(
        deployment=deployment,
        running_replicas=running_replicas,
        target_num_replicas=autoscaler.target,
        total_num_requests=ongoing,
        total_queued_requests=queued,
        min_replicas=lowest,
        max_replicas=highest,
        last_scale_up_time=autoscaler.last_scaled(up=True),
        last_scale_down_time=autoscaler.last_scaled(up=False),
        current_time=moment,
        config=config.model_dump(mode="json"),
        aggregated_metrics=metrics.aggregated(now, config.look_back_period_s, config.aggregation_function),
        raw_metrics=metrics.raw(moment - now),
    )
