"""What follows from a deployment's spec: its options, the process of a replica, and what that needs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.ray_actor_options import RuntimeEnv
from headrace.config.spec import ApplicationSpec, DeploymentSpec, GangPlace
from headrace.engine.process import ProcessInfo, ProcessSpec
from headrace.engine.resources import Gang, ResourceRequest

PROCESS_PREFIX = "replica:"
"""The engine's name of a replica's process is this and the replica's id."""

REPLICA_ENTRY = "headrace.replica.main:main"

LIVE_OPTIONS = frozenset({"user_config", "max_ongoing_requests"})
"""Options that a running replica is told of. The others are the routers', the controller's, or part of the version."""


def config_of(spec: DeploymentSpec) -> str:
    """Digest of the options that a running replica takes on without a restart."""
    live = {name: spec.options.get(name) for name in sorted(LIVE_OPTIONS)}
    return hashlib.blake2b(json.dumps(live, sort_keys=True).encode(), digest_size=8).hexdigest()


def options_of(spec: DeploymentSpec) -> DeploymentOptions:
    """
    Raises:
        ConfigError: the options are wrong; the message names each.
    """
    return DeploymentOptions(**spec.options)


def differ(one: DeploymentSpec, other: DeploymentSpec) -> bool:
    """Whether replicas of the two, or their number, would differ."""
    return one.version != other.version or one.options != other.options


def keeps_target(
    old: DeploymentSpec, old_application: ApplicationSpec, new: DeploymentSpec, new_application: ApplicationSpec
) -> bool:
    """Whether the number of replicas that was decided on last counts after a deploy, too.

    It does where the load, or a policy, goes on deciding, and where something outside does and the deploy does not ask
    for another number itself.
    """
    scaled_itself, scales_itself = (spec.options.get("autoscaling_config") is not None for spec in (old, new))
    if scaled_itself or scales_itself:
        return scaled_itself and scales_itself
    from_outside = old_application.external_scaler_enabled and new_application.external_scaler_enabled
    return from_outside and old.options.get("num_replicas") == new.options.get("num_replicas")


def gang_size_of(spec: DeploymentSpec) -> int:
    """How many replicas make a gang; 1 where there are no gangs."""
    gang = spec.options.get("gang_scheduling_config") or {}
    return int(gang.get("gang_size") or 1)


def resources_of(
    spec: DeploymentSpec, options: DeploymentOptions, runtime_env: dict[str, Any], place: GangPlace | None = None
) -> ResourceRequest:
    """What one replica needs; `runtime_env` is the application's, `place` that in its gang."""
    actor, gang = options.ray_actor_options, None
    if place is not None and options.gang_scheduling_config is not None:
        strategy = options.gang_scheduling_config.gang_placement_strategy.value
        gang = Gang(id=place.gang_id, size=place.world_size, index=place.rank, strategy=strategy)
    bundles = options.placement_group_bundles or []
    selectors = options.placement_group_bundle_label_selector or []
    return ResourceRequest(
        num_cpus=actor.num_cpus,
        num_gpus=actor.num_gpus,
        memory=actor.memory,
        resources=dict(actor.resources),
        accelerator_type=actor.accelerator_type,
        label_selector=dict(actor.label_selector or {}),
        fallback_strategy=[dict(alternative) for alternative in actor.fallback_strategy or []],
        runtime_env=environment_of(options, runtime_env).model_dump(mode="json", exclude_defaults=True),
        bundles=[dict(bundle) for bundle in bundles],
        bundle_label_selectors=[dict(selector) for selector in selectors],
        strategy=options.placement_group_strategy,
        max_per_node=options.max_replicas_per_node,
        group=f"{spec.app}#{spec.name}" if options.max_replicas_per_node is not None else "",
        gang=gang,
    )


def process_of(
    replica_id: str,
    spec: DeploymentSpec,
    options: DeploymentOptions,
    runtime_env: dict[str, Any],
    logging: dict[str, Any],
    tracing: dict[str, Any],
    gang: GangPlace | None = None,
) -> ProcessSpec:
    """The process of a replica. `runtime_env` is the application's, `logging` the instance's; the deployment's own win
    over them. `tracing` is the instance's. `gang`: its place in its gang, which a new controller has to know before the
    replica answers."""
    environment = environment_of(options, runtime_env)
    return ProcessSpec(
        name=f"{PROCESS_PREFIX}{replica_id}",
        role="replica",
        entry=REPLICA_ENTRY,
        listen=f"{replica_id.rpartition('#')[2]}.sock",
        args={
            "replica_id": replica_id,
            "app": spec.app,
            "deployment": spec.name,
            "version": spec.version,
            "logging": logging,
            "tracing": tracing,
            "gang": msgspec.to_builtins(gang),
        },
        env=environment.env_vars,
        cwd=environment.folder,
    )


def gang_place_of(process: ProcessInfo) -> GangPlace | None:
    """The place of a running replica in its gang; None if it is in none."""
    return msgspec.convert(process.args.get("gang"), GangPlace | None)


def environment_of(options: DeploymentOptions | None, runtime_env: dict[str, Any]) -> RuntimeEnv:
    """The environment of a deployment's processes inside its application's; None for the application's alone."""
    outer = RuntimeEnv(**{name: value for name, value in runtime_env.items() if name in RuntimeEnv.model_fields})
    return outer if options is None else options.ray_actor_options.runtime_env.over(outer)
