"""Autoscaling policies, and what to build one from. Policies of the user's may call the default one."""

from __future__ import annotations

import math
from typing import Any

from headrace.config.autoscaling_context import AutoscalingContext

__all__ = ["default_autoscaling_policy", "replica_queue_length_autoscaling_policy"]


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """The default: requests under way, divided by `target_ongoing_requests`.

    Returns:
        How many replicas are needed, before factors, delays and bounds; and no state.
    """
    if ctx.current_num_replicas == 0:
        if ctx.total_num_requests > 0:
            return max(math.ceil(ctx.config.get_upscaling_factor()), ctx.target_num_replicas), ctx.policy_state
        return ctx.target_num_replicas, {}
    return ctx.total_num_requests / ctx.config.get_target_ongoing_requests(), {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
