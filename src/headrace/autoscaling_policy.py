"""Autoscaling policies, and what to build one from."""

from __future__ import annotations

from typing import Any

from headrace.config.autoscaling_context import AutoscalingContext
from headrace.prometheus_query import (
    PrometheusQueryMixin,
    PrometheusQueryResult,
    PrometheusSample,
    PrometheusScalar,
    PrometheusVector,
)

__all__ = [
    "PrometheusQueryMixin",
    "PrometheusQueryResult",
    "PrometheusSample",
    "PrometheusScalar",
    "PrometheusVector",
    "default_autoscaling_policy",
    "replica_queue_length_autoscaling_policy",
]


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """The default: requests under way, divided by `target_ongoing_requests`. A policy of one's own may call it.

    Returns:
        How many replicas are needed, before factors, delays and bounds; and no state.
    """
    # Not by the replicas that there are: while none serves yet, a policy that adds to a number which goes by the target
    # would raise the target again and again.
    return ctx.total_num_requests / ctx.config.get_target_ongoing_requests(), {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
