"""What the controller and the process of an autoscaling policy tell each other. Values of the user's are bytes here."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.config.spec import PolicySpec


class PolicyLoad(msgspec.Struct, kw_only=True):
    """The first thing that a policy's process is told.

    Attributes:
        of_application: it decides for all deployments of an application together.
        sys_path: where the driver found modules.
        states: what the policy last returned as its state, pickled; None for none.
    """

    policy: PolicySpec
    app: str
    of_application: bool
    sys_path: list[str] = []
    states: bytes | None = None


class DeploymentFacts(msgspec.Struct, kw_only=True):
    """What becomes an `AutoscalingContext`, whose attributes these are. Replicas are named by their ids.

    `raw_metrics`: metric to replica to (Unix time, value).
    """

    deployment: str
    running_replicas: list[str]
    target_num_replicas: int
    total_num_requests: float
    total_queued_requests: float
    min_replicas: int
    max_replicas: int
    last_scale_up_time: float | None
    last_scale_down_time: float | None
    current_time: float
    config: dict[str, Any]
    aggregated_metrics: dict[str, dict[str, float]] = {}
    raw_metrics: dict[str, dict[str, list[tuple[float, float]]]] = {}


class PolicyQuestion(msgspec.Struct, kw_only=True):
    deployments: list[DeploymentFacts]


class PolicyAnswer(msgspec.Struct, kw_only=True):
    """`targets`: by deployment; one that is not in it keeps its target. `states`: as in `PolicyLoad`, None if they are
    as before, or cannot be pickled."""

    targets: dict[str, float]
    states: bytes | None = None
