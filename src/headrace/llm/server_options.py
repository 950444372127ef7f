"""From a config to the options of the deployment that serves it."""

from __future__ import annotations

from typing import Any

from headrace.config.autoscaling import AutoscalingConfig
from headrace.llm.config import LLMConfig

MAX_ONGOING_REQUESTS = 1_000_000_000
"""An engine batches what it gets and queues the rest itself, in the order that suits its cache."""

DEFAULTS: dict[str, Any] = {
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    "health_check_period_s": 10.0,
    "health_check_timeout_s": 10.0,
    # An answer may be some thousand tokens long.
    "graceful_shutdown_timeout_s": 60.0,
}

DEFAULT_TARGET_ONGOING_REQUESTS = 32


def server_name(class_name: str, config: LLMConfig) -> str:
    """The deployment's name, Ray Serve LLM's: `LLMServer:Qwen--Qwen2_5-0_5B`."""
    name = config.deployment_config.get("name")
    if name is None:
        name = config.model_id.replace("/", "--").replace(".", "_").replace("#", "_")
    return f"{class_name}:{name}"


def server_options(config: LLMConfig) -> dict[str, Any]:
    """Options of `@serve.deployment` for a config.

    Raises:
        ConfigError: it asks for what cannot be given here.
    """
    options = {**DEFAULTS, **config.deployment_config}
    options.pop("name", None)
    scaling = options.get("autoscaling_config")
    if scaling is not None:
        options["autoscaling_config"] = _scaling(scaling, config)
    options["ray_actor_options"] = dict(options.get("ray_actor_options") or {})
    if config.runtime_env:
        environment = options["ray_actor_options"].get("runtime_env") or {}
        options["ray_actor_options"]["runtime_env"] = {**environment, **config.runtime_env}
    return options


def _scaling(given: Any, config: LLMConfig) -> dict[str, Any]:
    """Scaling aims at what fills an engine's batch, unless it is told otherwise."""
    if isinstance(given, AutoscalingConfig):
        given = given.model_dump(exclude_unset=True)
    target = config.engine_kwargs.get("max_num_seqs", DEFAULT_TARGET_ONGOING_REQUESTS)
    return {"target_ongoing_requests": float(target), **given}


def scales_to_zero(config: LLMConfig) -> bool:
    """Whether there may be no replica at all while nobody asks."""
    scaling = config.deployment_config.get("autoscaling_config")
    if isinstance(scaling, AutoscalingConfig):
        return scaling.min_replicas == 0
    return scaling is not None and scaling.get("min_replicas") == 0
