"""Which policy routers use to choose a replica."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from headrace.config.model import ConfigModel, JsonObject, PositiveNumber, import_path_of
from headrace.config.problems import nearest, shown

BUILT_IN = ("power_of_two_choices", "round_robin", "random")
DEFAULT = BUILT_IN[0]
_SAME_ELSEWHERE = {
    "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter": DEFAULT,
    "ray.serve._private.request_router.PowerOfTwoChoicesRequestRouter": DEFAULT,
}


class RequestRouterConfig(ConfigModel):
    """The routing policy of a deployment.

    Attributes:
        request_router_class: a built-in policy's name, or a policy class or its import path.
        request_router_kwargs: arguments of the policy; must be JSON-serializable.
        request_routing_stats_period_s, request_routing_stats_timeout_s: how often a replica that defines
            `record_routing_stats` is asked for its figures, and for how long at most, seconds.
        initial_backoff_s, backoff_multiplier, max_backoff_s: taken for compatibility and not needed: a request that
            finds every replica full is woken when a place becomes free, so there is nothing to back off from.
    """

    title: ClassVar[str] = "wrong request_router_config"

    request_router_class: str = DEFAULT
    request_router_kwargs: JsonObject = Field(default_factory=dict)
    request_routing_stats_period_s: PositiveNumber = 10.0
    request_routing_stats_timeout_s: PositiveNumber = 30.0
    initial_backoff_s: PositiveNumber = 0.025
    backoff_multiplier: PositiveNumber = 2.0
    max_backoff_s: PositiveNumber = 0.5

    @field_validator("request_router_class", mode="before")
    @classmethod
    def _policy(cls, policy: Any) -> Any:
        if not isinstance(policy, str):
            return import_path_of(policy)
        policy = _SAME_ELSEWHERE.get(policy, policy)
        if policy in BUILT_IN:
            return policy
        if ":" in policy or "." in policy:
            return import_path_of(policy)
        meant = nearest(policy, BUILT_IN)
        hint = f"; did you mean '{meant}'?" if meant else ""
        raise ValueError(
            f"must be one of {', '.join(BUILT_IN)}, or a class or its import path 'module:Class', "
            f"not {shown(policy)}{hint}"
        )

    @property
    def routing_policy(self) -> dict[str, Any]:
        """The part that routers need, as it travels in `DeploymentTargets`."""
        return {"policy": self.request_router_class, "kwargs": self.request_router_kwargs}
