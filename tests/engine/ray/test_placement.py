"""Placement groups and gangs on a cluster whose machines are told how many GPUs they have."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.ray.conftest import Machines, until
from tests.engine.ray.placed import Placed

import headrace as serve
from headrace import client as driver
from headrace.config.spec import DeploymentStatus
from headrace.context import GangContext

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
pytest.importorskip("ray")

ONE = {"GPU": 1}
FIRST = {"CPU": 0.1, "GPU": 1}


@pytest.fixture(scope="module")
def cluster(machines: Machines) -> Iterator[Machines]:
    """Two more machines with two GPUs each, and an instance on all of them."""
    machines.leave_only_the_head()
    added = {machines.add(num_gpus=2, labels={"rack": name}).node_id for name in ("a", "b")}
    serve.start(engine="ray", http_options={"port": 0}, rest_options={"port": 0})
    try:
        until(lambda: added <= machines.records().keys())
        yield machines
    finally:
        serve.shutdown()
        until(machines.nothing_is_left, "everything of the instance is gone")
        machines.remove_all_added()


@pytest.fixture
def gpus(cluster: Machines) -> Iterator[Machines]:
    """The same, with no GPU in use, left as it was found."""
    import ray

    # Ray frees a moment later than it tells that a group is gone, and SPREAD puts up with one machine.
    until(lambda: ray.available_resources().get("GPU") == ray.cluster_resources()["GPU"], "all GPUs are free")
    before = list(cluster._added)
    yield cluster
    for application in driver.find().status().applications:
        serve.delete(application.name)
    until(lambda: not placed_groups(), "no placement group is left")
    for node in cluster._added[len(before) :]:
        cluster.remove(node)


def placed_groups() -> dict[str, dict[str, Any]]:
    """The placement groups that there are, by id."""
    import ray

    table = ray.util.placement_group_table()
    return {id: told for id, told in table.items() if told["state"] != "REMOVED"}


def nodes_of(group: str) -> list[str]:
    """The machine of each bundle of a group."""
    return list(placed_groups()[group]["bundles_to_node_id"].values())


def status(app: str = "default") -> DeploymentStatus:
    [found] = [a for a in driver.find().status().applications if a.name == app]
    return found.deployments[0]


def with_bundles(*bundles: dict[str, float], strategy: str = "PACK", workers: int = 0, **more: Any) -> Any:
    return Placed.options(placement_group_bundles=list(bundles), placement_group_strategy=strategy, **more).bind(
        workers
    )


def run_without_waiting(app: Any, name: str = "default") -> Any:
    target = serve.RunTarget(app, name=name, route_prefix=None)
    return serve.run_many([target], wait_for_applications_running=False)[0]


@pytest.mark.parametrize(("strategy", "machines_used"), [("STRICT_PACK", 1), ("STRICT_SPREAD", 2), ("SPREAD", 2)])
def test_bundles_lie_as_the_strategy_says_and_actors_of_the_replica_in_them(
    gpus: Machines, strategy: str, machines_used: int
) -> None:
    handle = serve.run(with_bundles(FIRST, ONE, strategy=strategy, workers=2))
    group = handle.group.remote().result(timeout_s=30)
    workers = handle.of_workers.remote().result(timeout_s=60)
    assert {each for _, each in workers} == {group}
    assert len(set(nodes_of(group))) == machines_used
    assert {node for node, _ in workers} == set(nodes_of(group))


def test_a_strategy_alone_makes_no_group_and_the_replica_has_all_its_gpus(gpus: Machines) -> None:
    options = {"num_cpus": 0.1, "num_gpus": 2}
    handle = serve.run(Placed.options(ray_actor_options=options, placement_group_strategy="STRICT_PACK").bind())
    assert handle.group.remote().result(timeout_s=30) is None
    assert len((handle.gpus.remote().result(timeout_s=30) or "").split(",")) == 2


def test_bundles_go_to_machines_with_the_labels_that_they_name(gpus: Machines) -> None:
    wanted = with_bundles(FIRST, ONE, placement_group_bundle_label_selector=[{"rack": "b"}, {"rack": "a"}])
    handle = serve.run(wanted)
    group = handle.group.remote().result(timeout_s=30)
    labels = {node["NodeID"]: node["Labels"].get("rack") for node in gpus.cluster.list_all_nodes_ray()}
    assert [labels[node] for node in nodes_of(group)] == ["b", "a"]


def test_what_has_no_place_is_told_of_and_starts_when_a_machine_that_fits_joins(gpus: Machines) -> None:
    handle = run_without_waiting(with_bundles(FIRST, {"GPU": 4}))
    until(lambda: "Waiting for resources" in status().message)
    assert "bundle 2 of 2 needs 4 GPUs; the largest node has 2" in status().message
    gpus.add(num_gpus=4)
    group = handle.group.remote().result(timeout_s=60)
    assert len(set(nodes_of(group))) == 2
    until(lambda: status().status == "HEALTHY")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_gpus": 3}, "it needs 3 GPUs; the largest node has 2"),
        ({"label_selector": {"rack": "z"}}, "it needs a node with the label rack=z; there is rack=a and rack=b"),
        ({"resources": {"licence": 1}}, "it needs 1 of the resource 'licence'; no node has any"),
        ({"accelerator_type": "H100"}, "it needs an accelerator H100; no node has an accelerator that is known"),
    ],
)
def test_a_replica_without_bundles_says_what_it_lacks_too(gpus: Machines, options: dict[str, Any], reason: str) -> None:
    run_without_waiting(Placed.options(ray_actor_options={"num_cpus": 0.1, **options}).bind())
    until(lambda: reason in status().message, reason)


def test_what_holds_the_gpus_is_waited_for(gpus: Machines) -> None:
    serve.run(with_bundles(FIRST, ONE, ONE), name="first", route_prefix=None)
    handle = run_without_waiting(with_bundles(FIRST, ONE), name="second")
    until(lambda: "Waiting for resources" in status("second").message)
    assert "the 2 bundles together need 2 GPUs; 3 nodes together have 1 free of 4" in status("second").message
    serve.delete("first")
    assert handle.group.remote().result(timeout_s=60) in placed_groups()
    until(lambda: len(placed_groups()) == 1)


def test_an_update_with_room_for_both_waits_for_nothing_and_stops_nothing_early(gpus: Machines, tmp_path: Path) -> None:
    """What a new replica has been given is missing from what is left, before it is there."""
    options = {"num_cpus": 0.1, "num_gpus": 2}
    serve.run(Placed.options(ray_actor_options=options).bind())
    # As long as an environment that has to be made first.
    slow = tmp_path / "slow_python"
    slow.write_text(f'#!/bin/sh\nsleep 6\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    other = {**options, "runtime_env": {"py_executable": str(slow)}}
    told: list[str] = []
    serving: list[int] = []
    [old] = [replica.replica_id for replica in status().replicas]
    run_without_waiting(Placed.options(ray_actor_options=other).bind())

    def updated() -> bool:
        now = status()
        running = {replica.replica_id for replica in now.replicas if replica.state == "RUNNING"}
        told.append(now.message)
        serving.append(len(running))
        return old not in running and now.status == "HEALTHY"

    until(updated)
    assert not [message for message in told if "Waiting for resources" in message]
    assert min(serving) > 0, "the old one serves until the new one does"


def test_who_describes_a_model_on_a_machine_without_gpus_knows_of_the_clusters(
    gpus: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADRACE_NUM_GPUS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert driver.machine_gpus() == 4


# Gangs.


def gang(size: int = 2, count: int = 2, workers: int = 0, **more: Any) -> Any:
    options = {"ray_actor_options": {"num_cpus": 0.1, "num_gpus": 1}, **more}
    scheduling = {"gang_size": size, **more.pop("scheduling", {})}
    options.pop("scheduling", None)
    return Placed.options(num_replicas=count, gang_scheduling_config=scheduling, **options).bind(workers)


def members(handle: Any, count: int) -> dict[str, tuple[str, str | None, GangContext]]:
    """The machine, placement group and gang of each replica."""
    found: dict[str, tuple[str, str | None, GangContext]] = {}

    def asked() -> bool:
        replica, node, group, context = handle.who.remote().result(timeout_s=30)
        found[replica] = (node, group, context)
        return len(found) == count

    until(asked)
    return found


@pytest.mark.parametrize(("strategy", "machines_used"), [("PACK", 1), ("SPREAD", 2)])
def test_a_gang_is_one_placement_group_with_a_bundle_for_each_replica(
    gpus: Machines, strategy: str, machines_used: int
) -> None:
    handle = serve.run(gang(scheduling={"gang_placement_strategy": strategy}))
    found = members(handle, 2)
    [group] = {group for _, group, _ in found.values()}
    assert group is not None and len(nodes_of(group)) == 2
    assert len({node for node, _, _ in found.values()}) == machines_used
    assert {context.rank: replica for replica, (_, _, context) in found.items()} == dict(
        enumerate(next(iter(found.values()))[2].member_replica_ids)
    )


def test_each_replica_of_a_gang_has_bundles_of_its_own(gpus: Machines) -> None:
    wanted = gang(ray_actor_options={"num_cpus": 0.1}, placement_group_bundles=[{"CPU": 0.1, "GPU": 1}, ONE], workers=1)
    found = members(serve.run(wanted), 2)
    [group] = {group for _, group, _ in found.values()}
    assert group is not None
    places = nodes_of(group)
    assert len(places) == 4
    for node, _, context in found.values():
        assert places[2 * context.rank] == node


def test_a_gang_that_loses_a_replica_is_replaced_with_its_group(gpus: Machines) -> None:
    handle = serve.run(gang(count=4))
    before = members(handle, 4)
    victim = next(iter(before))
    broken = set(before[victim][2].member_replica_ids)
    old_group = before[victim][1]
    os.kill(gpus.processes()[f"replica:{victim}"].info.pid, signal.SIGKILL)
    until(lambda: victim not in {r.replica_id for r in status().replicas} and status().status == "HEALTHY")
    after = members(handle, 4)
    assert before.keys() - broken < after.keys()
    assert not broken & after.keys()
    assert len({context.gang_id for _, _, context in after.values()}) == 2
    until(lambda: old_group not in placed_groups() and len(placed_groups()) == 2)


def test_gangs_that_do_not_fit_together_do_not_hold_half_each(gpus: Machines) -> None:
    """Three of four GPUs each."""
    run_without_waiting(gang(size=3, count=3), name="one")
    run_without_waiting(gang(size=3, count=3), name="two")
    served = until(lambda: next((name for name in ("one", "two") if status(name).status == "HEALTHY"), None))
    other = "two" if served == "one" else "one"
    until(lambda: "Waiting for resources" in status(other).message)
    assert "the 3 replicas of the gang together need 3 GPUs; 3 nodes together have 1 free of 4" in status(other).message
    assert not [replica for replica in status(other).replicas if replica.state == "RUNNING"]
    serve.delete(served)
    until(lambda: status(other).status == "HEALTHY")


def test_a_gang_is_updated_though_there_is_no_room_for_two(gpus: Machines) -> None:
    handle = serve.run(gang(size=3, count=3))
    before = members(handle, 3)
    handle = serve.run(gang(size=3, count=3, max_concurrent_sync=2))
    assert not before.keys() & members(handle, 3).keys()
    until(lambda: len(placed_groups()) == 1)


def test_a_controller_killed_while_a_gang_waits_for_room_leaves_one_gang(gpus: Machines) -> None:
    handle = run_without_waiting(gang(size=5, count=5))
    until(lambda: "Waiting for resources" in status().message)
    kill_controller(gpus)
    until(lambda: "the 5 replicas of the gang together need 5 GPUs" in status().message)
    gpus.add(num_gpus=1)
    assert len(members(handle, 5)) == 5
    until(lambda: len(placed_groups()) == 1 and status().status == "HEALTHY")


def kill_controller(machines: Machines) -> None:
    os.kill(machines.actor_pid("controller"), signal.SIGKILL)
