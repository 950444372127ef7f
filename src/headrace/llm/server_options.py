"""From a config to the options of the deployment that serves it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from headrace.client import machine_gpus
from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.ray_actor_options import RayActorOptions, RuntimeEnv
from headrace.exceptions import ConfigError
from headrace.llm.config.accelerators import Kind, kind_of_type
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines import check_installed, engine_named
from headrace.llm.engines.protocol import ModelInfo
from headrace.llm.parallelism import ParallelSizes, ReplicaPlacement, hardware_kind, place_replica

logger = logging.getLogger("headrace.llm")

MAX_ONGOING_REQUESTS = 1_000_000_000
"""An engine batches what it gets and queues the rest itself, in the order that suits its cache."""

DEFAULTS: dict[str, Any] = {
    "max_ongoing_requests": MAX_ONGOING_REQUESTS,
    "health_check_period_s": 10.0,
    "health_check_timeout_s": 10.0,
    # An answer may be some thousand tokens long.
    "graceful_shutdown_timeout_s": 60.0,
    # What keeps a model from loading (no such model, too little memory) seldom goes away by trying again.
    "max_constructor_retry_count": 3,
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
    engine = engine_named(config.llm_engine)
    check_installed(engine)  # on one machine replicas have this environment too
    if config.lora_config is not None and not engine.has_adapters:
        raise ConfigError(f"lora_config: the engine '{engine.name}' has no adapters; remove it, or use 'vllm'")
    options = {**DEFAULTS, **config.deployment_config}
    options.pop("name", None)
    scaling = options.get("autoscaling_config")
    if scaling is not None:
        options["autoscaling_config"] = _scaling(scaling, config)
    elif options.get("num_replicas") == "auto":
        options["autoscaling_config"] = _scaling({}, config)
    return options | _resources(options, config)


def _scaling(given: Any, config: LLMConfig) -> dict[str, Any]:
    """Scaling aims at what fills an engine's batch, unless it is told otherwise."""
    if isinstance(given, AutoscalingConfig):
        given = given.model_dump(exclude_unset=True)
    scaling = {name: value for name, value in given.items() if value is not None}
    metrics = scaling.get("target_metrics")
    if isinstance(metrics, Mapping):
        # More replicas make the time to first token better; they do not share it.
        scaling["target_metrics"] = {
            name: {"target": target, "kind": "level"}
            if name.startswith("ttft_") and isinstance(target, int | float)
            else target
            for name, target in metrics.items()
        }
    if not metrics and "target_latency_p99_s" not in scaling:
        places = config.engine_kwargs.get("max_num_seqs", DEFAULT_TARGET_ONGOING_REQUESTS)
        scaling.setdefault("target_ongoing_requests", float(places))
    return scaling


def scales_to_zero(config: LLMConfig) -> bool:
    """Whether there may be no replica at all while nobody asks."""
    scaling = config.deployment_config.get("autoscaling_config")
    if isinstance(scaling, AutoscalingConfig):
        return scaling.min_replicas == 0
    return scaling is not None and scaling.get("min_replicas") == 0


def for_the_front(config: LLMConfig) -> LLMConfig:
    """As much of a config as the front of the API goes by: a change of the rest restarts the model's replicas alone."""
    sleeps = {"autoscaling_config": {"min_replicas": 0}} if scales_to_zero(config) else {}
    return LLMConfig(
        model_loading_config={"model_id": config.model_id},
        llm_engine=config.llm_engine,
        lora_config=config.lora_config,
        deployment_config=sleeps,
        sleep_endpoints=config.sleep_endpoints,
    )


def replica_placement(config: LLMConfig) -> ReplicaPlacement:
    """The workers of one replica, and what each needs.

    Raises:
        ConfigError: the hardware cannot be what the config says.
    """
    engine = engine_named(config.llm_engine)
    accelerator = config.accelerator_config
    if accelerator is not None and accelerator.topology is not None and engine.gpu_use != "never":
        raise ConfigError("accelerator_config.topology: slices of TPUs are not available on one machine; remove it")
    named: Kind | None = None
    if accelerator is not None:
        named = accelerator.kind
    elif config.accelerator_type is not None:
        named = kind_of_type(config.accelerator_type)
    device = config.engine_kwargs.get("device")
    # A config of a large model can be tried out with the simulated engine as it is.
    placement = None if engine.gpu_use == "never" else config.placement_group_config
    # Looking for GPUs may cost a process; only where the answer counts.
    told = engine.gpu_use != "where there are some" or any(x is not None for x in (named, placement, device))
    kind = hardware_kind(
        engine.gpu_use,
        0 if told else machine_gpus(),
        device=None if device is None else str(device),
        accelerator_kind=named,
        placement=placement,
    )
    return place_replica(ParallelSizes.of(config.engine_kwargs), kind, config.accelerator_type, placement)


def _resources(options: dict[str, Any], config: LLMConfig) -> dict[str, Any]:
    """What the user says of a replica's resources, else what the workers need: `ray_actor_options`, and bundles where
    workers may be on several machines."""
    given = options.get("ray_actor_options")
    if isinstance(given, RayActorOptions):
        given = given.model_dump(exclude_unset=True)
    resources = dict(given or {})
    placement = replica_placement(config)
    found: dict[str, Any] = {"ray_actor_options": resources}
    if _workers_apart(config, placement) and "num_gpus" not in resources:
        resources.setdefault("num_cpus", 1)
        own = {"CPU": resources["num_cpus"], **(resources.get("resources") or {})}
        if resources.get("memory"):
            own["memory"] = resources["memory"]
        found |= placement.apart(own)
        if options.get("gang_scheduling_config") is not None:
            del found["placement_group_strategy"]  # the gang has one
    else:
        share = placement.in_one_process()
        # Where CPUs are a hint, a replica's own share of them is in the workers'.
        resources.setdefault("num_cpus", max(1.0, share.num_cpus))
        resources.setdefault("num_gpus", share.num_gpus)
        if share.memory is not None:
            resources.setdefault("memory", share.memory)
        if share.accelerator_type is not None and share.num_gpus:
            resources.setdefault("accelerator_type", share.accelerator_type)
        resources["resources"] = {**share.resources, **(resources.get("resources") or {})}
    environment = _environment(resources.get("runtime_env"), config)
    if environment:
        resources["runtime_env"] = environment
    return found


def _workers_apart(config: LLMConfig, placement: ReplicaPlacement) -> bool:
    """Whether the workers of a replica get bundles of their own, which may be on several machines.

    That is what vLLM's executor on Ray is for; on one machine it runs them as processes all the same. Copies of the
    model within a replica (`data_parallel_size`) are processes of one machine in any case.
    """
    backend = config.engine_kwargs.get("distributed_executor_backend")
    if not engine_named(config.llm_engine).spreads_workers or backend not in (None, "ray"):
        return False
    on_gpus = any(bundle.get("GPU") for bundle in placement.bundles)
    sizes = ParallelSizes.of(config.engine_kwargs)
    return on_gpus and sizes.data == 1 and (len(placement.bundles) > 1 or backend == "ray")


def _environment(given: Any, config: LLMConfig) -> dict[str, Any]:
    """The replica's runtime environment; the config's own wins over the deployment's."""
    environment = given or {}
    if isinstance(environment, RuntimeEnv):
        environment = environment.model_dump(exclude_unset=True)
    if config.runtime_env:
        variables = {**(environment.get("env_vars") or {}), **(config.runtime_env.get("env_vars") or {})}
        environment = {**environment, **config.runtime_env, "env_vars": variables}
    return dict(environment)


_BATCH_SHARE = 0.75


def batch_places(config: LLMConfig, info: ModelInfo) -> int:
    """How many requests may be under way in a replica for one of a batch to begin: a quarter of the engine's running
    batch stays free for live ones."""
    return max(1, int(_BATCH_SHARE * _places(config, info)))


def _places(config: LLMConfig, info: ModelInfo) -> int:
    """Answers that the engine generates at a time."""
    return info.max_num_seqs or int(config.engine_kwargs.get("max_num_seqs", DEFAULT_TARGET_ONGOING_REQUESTS))


_WAITING_PER_PLACE = 4
_FEWEST_WAITING = 256


def most_under_way(config: LLMConfig, info: ModelInfo) -> int | None:
    """How many requests may be under way in a replica for a live one to begin: those that the engine generates at a
    time, and `max_waiting_requests` that wait behind them. None for any number."""
    waiting = config.max_waiting_requests
    if waiting == -1:
        return None
    places = _places(config, info)
    return places + (max(_WAITING_PER_PLACE * places, _FEWEST_WAITING) if waiting is None else waiting)
