"""Which policy routers use to choose a replica."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from headrace.config.model import ConfigModel, JsonObject, PositiveNumber, import_path_of
from headrace.config.problems import mistake, shown

_OURS: dict[str, str | None] = {
    "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter": None,
    "ray.serve.llm.request_router:PrefixCacheAffinityRouter": "headrace.llm.routing:PrefixAffinity",
}
"""Request routers of Ray Serve, and what does the same here. None: the default."""


class RequestRouterConfig(ConfigModel):
    """The routing policy of a deployment.

    Attributes:
        request_router_class: a class derived from `headrace.router.policy.RoutingPolicy`, or its import path. None for
            the default: power of two choices, and affinity for requests that name a model or a session.
        request_router_kwargs: arguments of the class; must be JSON-serializable.
        request_routing_stats_period_s, request_routing_stats_timeout_s: how often a replica that defines
            `record_routing_stats` is asked for its figures, and for how long at most, seconds.
        initial_backoff_s, backoff_multiplier, max_backoff_s: taken for compatibility and not needed: a request that
            finds every replica full is woken when a place becomes free, so there is nothing to back off from.
    """

    title: ClassVar[str] = "wrong request_router_config"

    request_router_class: str | None = None
    request_router_kwargs: JsonObject = Field(default_factory=dict)
    request_routing_stats_period_s: PositiveNumber = 10.0
    request_routing_stats_timeout_s: PositiveNumber = 30.0
    initial_backoff_s: PositiveNumber = 0.025
    backoff_multiplier: PositiveNumber = 2.0
    max_backoff_s: PositiveNumber = 0.5

    @field_validator("request_router_class", mode="before")
    @classmethod
    def _policy(cls, policy: Any) -> Any:
        if policy is None:
            return None
        path = import_path_of(policy)
        known = ":".join(path.rpartition(":" if ":" in path else ".")[::2])
        if known in _OURS:
            return _OURS[known]
        if path.startswith("ray."):
            raise ValueError(
                f"{shown(path)} is a request router of Ray's, which cannot run here; name a class that derives from "
                "headrace.router.policy.RoutingPolicy"
            )
        return path

    @model_validator(mode="after")
    def _arguments_of_something(self) -> Self:
        if self.request_router_kwargs and self.request_router_class is None:
            raise mistake("needs a request_router_class to go to", "request_router_kwargs")
        return self

    @property
    def routing_policy(self) -> dict[str, Any]:
        """The part that routers need, as it travels in `DeploymentTargets`."""
        if self.request_router_class is None:
            return {}
        return {
            "request_router_class": self.request_router_class,
            "request_router_kwargs": self.request_router_kwargs,
        }
