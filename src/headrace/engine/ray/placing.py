"""A process as Ray is asked for it: an actor's options, and its placement group where it has one."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from headrace.engine.bundles import bundles_of
from headrace.engine.process import ProcessSpec
from headrace.engine.ray.kv import NAMESPACE
from headrace.engine.resources import ResourceRequest

GROUP_PREFIX = "headrace:"
"""Of the names of placement groups."""

_NODE_LABEL = "ray.io/node-id"

_OURS = frozenset({"working_dir"})
"""What of a runtime environment is set up here where it is on the machine already, and not by Ray."""


def actor_name(process: str) -> str:
    return f"process:{process}"


def preferring(node: str) -> dict[str, Any]:
    """Options of an actor that is best on a machine, and runs elsewhere where that is gone.

    A soft affinity to the machine is as good as none for actors that ask for no resources.
    """
    return {
        "label_selector": {_NODE_LABEL: node},
        "fallback_strategy": [{"label_selector": {_NODE_LABEL: f"!{node}"}}],
    }


def group_name(process: str, request: ResourceRequest) -> str | None:
    """Name of the placement group that a process belongs to; None if it needs none."""
    if request.gang is not None:
        return f"{GROUP_PREFIX}gang:{request.gang.id}"
    return f"{GROUP_PREFIX}{process}" if request.bundles else None


def make_group(name: str, request: ResourceRequest) -> PlacementGroup:
    """Ask Ray for a placement group, which it makes as soon as there is room for all of it."""
    bundles = bundles_of(request)
    strategy = (request.gang.strategy if request.gang is not None else request.strategy) or "PACK"
    selectors = [bundle.selector for bundle in bundles]
    return ray.util.placement_group(
        [dict(bundle.amounts) for bundle in bundles],
        strategy=strategy,
        name=name,
        lifetime="detached",
        bundle_label_selector=selectors if any(selectors) else None,
    )


def actor_options(spec: ProcessSpec, request: ResourceRequest, own_node: str, group: Any | None) -> dict[str, Any]:
    """What Ray is told of the actor of a process.

    Args:
        own_node: the controller's, which processes are best near to that work for it alone.
        group: placement group of the process.
    """
    options: dict[str, Any] = {
        "name": actor_name(spec.name),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": 1,
        "num_cpus": 0,
    }
    environment = _environment(spec, request)
    if environment:
        options["runtime_env"] = environment
    if spec.role != "replica":
        return {**options, **preferring(own_node)}
    options["num_cpus"] = request.num_cpus
    options["num_gpus"] = request.num_gpus
    resources = dict(request.resources)
    if request.memory:
        options["memory"] = request.memory
    if request.max_per_node is not None:
        # As Ray Serve does it: of this resource every machine has one.
        resources[f"{ray._raylet.IMPLICIT_RESOURCE_PREFIX}{request.group}"] = 1.0 / request.max_per_node
    if resources:
        options["resources"] = resources
    if group is not None:
        of_one = len(request.bundles) or 1
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            group,
            placement_group_bundle_index=of_one * request.gang.index if request.gang is not None else 0,
            placement_group_capture_child_tasks=True,
        )
        # The bundle has been chosen by the labels and the kind of accelerator.
        return options
    if request.accelerator_type is not None:
        options["accelerator_type"] = request.accelerator_type
    if request.label_selector:
        options["label_selector"] = request.label_selector
    if request.fallback_strategy:
        options["fallback_strategy"] = request.fallback_strategy
    return options


def _environment(spec: ProcessSpec, request: ResourceRequest) -> dict[str, Any]:
    """What Ray makes of the runtime environment. Variables are given to Ray too, which hands them on to what the
    process starts through Ray."""
    environment = {name: value for name, value in request.runtime_env.items() if value and name not in _OURS}
    folder = request.runtime_env.get("working_dir") or spec.cwd
    if folder and "://" in folder:
        environment["working_dir"] = folder
    if spec.env:
        environment["env_vars"] = {**environment.get("env_vars", {}), **spec.env}
    return environment
