"""Ends an instance on a cluster: every actor, placement group, file and record. Run again, it ends what is left."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup

from headrace.engine.ray import kv, placing
from headrace.engine.ray.agents import AGENT_PREFIX, agent_of
from headrace.engine.ray.records import CONTROLLER_ACTOR, ENDING, NODE, PROCESS, NodeRecord, ProcessRecord

logger = logging.getLogger("headrace.controller")

GRACE_S = 5.0
"""What processes get to end themselves."""

AGENT_S = 20.0
KILLED_S = 5.0


def tear_down(grace_s: float = GRACE_S) -> None:
    """End the instance. A process that is an actor of the instance itself ends with it, at the very end."""
    kv.put(ENDING, b"1")
    own = _own_actor()
    last = []
    controller = _actor(CONTROLLER_ACTOR)
    if controller is not None:  # first, or it would start again what ends
        last.append(controller) if _id(controller) == own else _kill_and_wait(controller, CONTROLLER_ACTOR)
    _call_up_agents()
    actors = {name: actor for name in instance_actors() if (actor := _actor(name)) is not None}
    _end_processes([actor for name, actor in actors.items() if name.startswith(placing.actor_name(""))], grace_s)
    _remove_groups()
    agents = [actor for name, actor in actors.items() if name.startswith(AGENT_PREFIX)]
    _wait_for([agent.end.remote() for agent in agents], AGENT_S)
    kv.delete_all(but=ENDING)
    kv.delete(ENDING)
    for agent in agents:
        last.append(agent) if _id(agent) == own else _kill(agent)
    for actor in last:
        _kill(actor)


def _call_up_agents() -> None:
    """Machines where nothing runs have no agents, and yet a root that is to end."""
    nodes = ray.nodes()
    cluster = ray.get_runtime_context().gcs_address
    for key in kv.keys(NODE):
        record = kv.get_record(key, NodeRecord)
        for node in nodes:
            if record is not None and node["Alive"] and node["NodeID"] == record.node:
                agent_of(node, nodes, cluster)


def _end_processes(actors: list[Any], grace_s: float) -> None:
    if actors and grace_s > 0:
        for key in kv.keys(PROCESS):
            record = kv.get_record(key, ProcessRecord)
            agent = _actor(f"{AGENT_PREFIX}{record.info.node}") if record is not None else None
            if record is not None and agent is not None:
                agent.kill.remote(record.info.pid, record.started, int(signal.SIGTERM))
        _wait_for([actor.over.remote() for actor in actors], grace_s)
    for actor in actors:
        _kill(actor)


def _wait_for(answers: list[Any], timeout_s: float) -> None:
    """Until all have come, or failed."""
    until = time.monotonic() + timeout_s
    while answers and (left := until - time.monotonic()) > 0:
        done, answers = ray.wait(answers, num_returns=1, timeout=left)
        for each in done:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(each)


def _remove_groups() -> None:
    for id, told in ray.util.placement_group_table().items():
        if told["name"].startswith(placing.GROUP_PREFIX) and told["state"] != "REMOVED":
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(id))))


def instance_actors() -> list[str]:
    """The names of the actors of an instance. Those of users may be in the same namespace."""
    prefixes = (CONTROLLER_ACTOR, AGENT_PREFIX, placing.actor_name(""))
    named = ray.util.list_named_actors(True)
    return [each["name"] for each in named if each["namespace"] == kv.NAMESPACE and each["name"].startswith(prefixes)]


def _actor(name: str) -> Any | None:
    try:
        return ray.get_actor(name, kv.NAMESPACE)
    except ValueError:
        return None


def _kill(actor: Any) -> None:
    with contextlib.suppress(ValueError, ray.exceptions.RayError):
        ray.kill(actor, no_restart=True)


def _kill_and_wait(actor: Any, name: str) -> None:
    """Until it can begin nothing more."""
    _kill(actor)
    until = time.monotonic() + KILLED_S
    while name in instance_actors() and time.monotonic() < until:
        threading.Event().wait(0.02)


def _id(actor: Any) -> str:
    return str(actor._actor_id.hex())


def _own_actor() -> str | None:
    context = ray.get_runtime_context()
    id: str | None = context.get_actor_id()
    return id
