"""Machines that run nothing: Ray may take them away, and until it does they serve."""

from __future__ import annotations

import psutil
import pytest
from tests.engine.ray.applications import Where
from tests.engine.ray.conftest import Machines, answers, get, kill, until

import headrace as serve
from headrace import client as driver
from headrace.engine.ray.idle_machines import REST_AFTER_S, IdleMachines

ray = pytest.importorskip("ray")

ON_A_WORKER = {"num_cpus": 0.1, "resources": {"worker": 1}}


def idle(machines: Machines) -> dict[str, bool]:
    """What Ray's autoscaler goes by: whether each machine has nothing to do."""
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    state = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    return {each.node_id.hex(): each.status == NodeStatus.IDLE for each in state.node_states}


@pytest.mark.full
@pytest.mark.timeout(400)
def test_ray_may_take_away_a_machine_where_nothing_runs_and_it_serves_until_then(
    three: Machines, instance: driver.Client
) -> None:
    workers = [node.node_id for node in three._workers]
    serve.run(Where.options(num_replicas=1).bind())  # On the head: the others have no room for it that is nearer.
    used = {record.info.node for record in three.processes().values()}
    (resting, *_) = [node for node in workers if node not in used]
    until(lambda: idle(three)[resting], "the machine has nothing to do", seconds=REST_AFTER_S + 90)
    record = three.records()[resting]
    assert get(record)  # Its proxies are there still, and told of.
    assert f"proxy-0@{resting}" in {proxy.name for proxy in instance.status().proxies}
    assert not idle(three)[three.head.node_id]

    # A root that dies there is replaced: somebody looks from afar.
    kill(record.root_pid)
    until(lambda: not psutil.pid_exists(record.root_pid))
    until(lambda: three.records()[resting].root_pid != record.root_pid, "another root")
    assert until(lambda: answers(three.records()[resting]), "its proxy")

    # What is placed there finds all that it needs.
    serve.run(Where.options(num_replicas=2, ray_actor_options=ON_A_WORKER).bind())
    nodes = until(lambda: {r.info.node for r in three.processes().values() if r.info.role == "replica"} <= set(workers))
    assert nodes
    assert get(three.records()[resting])
    serve.delete("default")


def test_a_machine_rests_when_it_has_run_nothing_for_a_while() -> None:
    idle = IdleMachines(rest_after_s=30.0)
    assert not idle.may_rest("a", busy=False, now=100.0)
    assert not idle.may_rest("a", busy=False, now=129.0)
    assert not idle.may_rest("a", busy=True, now=129.5)
    assert not idle.may_rest("a", busy=False, now=131.0)
    assert idle.may_rest("a", busy=False, now=161.0)


def test_a_machine_that_is_called_up_has_to_wait_again() -> None:
    idle = IdleMachines(rest_after_s=30.0)
    idle.may_rest("a", busy=False, now=0.0)
    assert idle.may_rest("a", busy=False, now=30.0)
    idle.resting["a"] = []
    assert idle.wake("a")
    assert not idle.wake("a")
    assert not idle.may_rest("a", busy=False, now=31.0)


def test_a_machine_that_is_only_asked_what_runs_there_rests_all_the_same() -> None:
    idle = IdleMachines(rest_after_s=30.0)
    assert not idle.may_rest("a", busy=False, now=0.0)
    assert not idle.wake("a")
    assert idle.may_rest("a", busy=False, now=30.0)
