"""Gangs as units of what is planned, and gangs of replicas that answer over real sockets."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.spec import DeploymentSpec, GangPlace
from headrace.controller.gangs import is_first_loss, is_whole, new_gang, see
from headrace.controller.reconcile import Observed
from headrace.controller.replica_machine import Phase
from headrace.engine.resources import Machine
from headrace.exceptions import StartupError

from .conftest import Instance, until
from .fakes import FakeReplica, application, deployment

# The pure part.


def members(gang: list[GangPlace], *phases: Phase | None, config: str = "c") -> list[Observed]:
    """The replicas of a gang in these phases; those that have gone are left out."""
    return [
        Observed(gang[0].member_replica_ids[rank], "v1", config, phase, float(rank))
        for rank, phase in enumerate(phases)
        if phase is not None
    ]


def placed(*made: list[GangPlace]) -> dict[str, GangPlace]:
    return {place.member_replica_ids[place.rank]: place for gang in made for place in gang}


def test_a_gang_is_one_unit_that_runs_when_all_of_it_runs() -> None:
    gang = new_gang(["a", "b"])
    for phases, phase in (
        ((Phase.RUNNING, Phase.RUNNING), Phase.RUNNING),
        ((Phase.RUNNING, Phase.STARTING), Phase.INITIALIZING),
    ):
        seen = see(members(gang, *phases), placed(gang))
        [unit] = seen.units
        assert (unit.replica_id, unit.phase, unit.size) == (gang[0].gang_id, phase, 2)
        assert seen.members == {gang[0].gang_id: ["a", "b"]} and not seen.broken


@pytest.mark.parametrize("lost", [None, Phase.FAILED, Phase.DRAINING, Phase.STOPPED])
def test_a_gang_that_has_lost_a_replica_is_no_unit_and_the_others_have_to_go(lost: Phase | None) -> None:
    gang = new_gang(["a", "b", "c"])
    seen = see(members(gang, Phase.RUNNING, lost, Phase.STARTING), placed(gang))
    assert seen.units == []
    assert seen.broken.keys() == {"a", "c"}
    assert seen.broken["a"] == f"replica b of its gang {gang[0].gang_id} has ended"


def test_replicas_without_a_gang_are_units_of_their_own() -> None:
    single = Observed("x", "v0", "c", Phase.RUNNING, 0.0)
    gang = new_gang(["a"])
    seen = see([single, *members(gang, Phase.RUNNING)], placed(gang))
    assert seen.units[0] == single and seen.units[1].size == 1


def test_a_gang_whose_replicas_differ_in_their_config_has_yet_to_be_told() -> None:
    gang = new_gang(["a", "b"])
    mixed = [*members(gang, Phase.RUNNING, None), *members(gang, None, Phase.RUNNING, config="d")]
    assert see(mixed, placed(gang)).units[0].config not in ("c", "d")


phases = st.none() | st.sampled_from(list(Phase))


@given(st.lists(st.lists(phases, min_size=1, max_size=4), max_size=4))
def test_no_replica_is_lost_sight_of_and_no_half_gang_is_counted(gangs: list[list[Phase | None]]) -> None:
    made = [new_gang([f"{number}-{rank}" for rank in range(len(gang))]) for number, gang in enumerate(gangs)]
    replicas = [member for gang, states in zip(made, gangs, strict=True) for member in members(gang, *states)]
    seen = see(replicas, placed(*made))
    by_id = {replica.replica_id: replica.phase for replica in replicas}
    active = {name for name, phase in by_id.items() if phase in (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING)}
    in_units = {name for unit in seen.members.values() for name in unit}
    assert in_units | seen.broken.keys() == active
    assert not in_units & seen.broken.keys()
    for gang in made:
        unit = next((unit for unit in seen.units if unit.replica_id == gang[0].gang_id), None)
        complete = all(member in active for member in gang[0].member_replica_ids)
        assert (unit is not None) is complete
        if unit is not None:
            assert unit.size == gang[0].world_size
            assert (unit.phase is Phase.RUNNING) is is_whole(gang[0], by_id)


def test_only_the_first_replica_that_a_gang_loses_counts_as_a_failure() -> None:
    gang = new_gang(["a", "b"])
    assert is_first_loss(gang[0], "a", {"a": Phase.FAILED, "b": Phase.RUNNING})
    assert not is_first_loss(gang[1], "b", {"a": Phase.FAILED, "b": Phase.FAILED})
    assert not is_first_loss(gang[1], "b", {"b": Phase.FAILED})


# With replicas.


def gang_of(size: int = 2, count: int = 2, **options: Any) -> DeploymentSpec:
    return deployment(num_replicas=count, gang_scheduling_config={"gang_size": size}, **options)


def place_of(replica: FakeReplica) -> GangPlace:
    assert replica.spec is not None and replica.spec.gang is not None
    return replica.spec.gang


def by_gang(instance: Instance) -> dict[str, list[FakeReplica]]:
    found: dict[str, list[FakeReplica]] = {}
    for replica in instance.engine.serving:
        found.setdefault(place_of(replica).gang_id, []).append(replica)
    return found


def routed(instance: Instance) -> set[str]:
    return {target.replica_id for target in instance.targets().replicas}


async def test_each_replica_of_a_gang_knows_its_rank_and_the_others(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(size=3, count=6))])
    await instance.until_status("HEALTHY")
    gangs = by_gang(instance)
    assert len(gangs) == 2
    for replicas in gangs.values():
        assert sorted(place_of(r).rank for r in replicas) == [0, 1, 2]
        for replica in replicas:
            place = place_of(replica)
            assert place.world_size == 3
            assert place.member_replica_ids[place.rank] == replica.replica_id
    assert sorted(r.spec.rank for r in instance.engine.serving if r.spec) == [0, 1, 2, 3, 4, 5]


async def test_a_gang_takes_requests_only_when_all_of_it_runs(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(code=b"slow"))])
    first, second = await until(
        lambda: [r for r in instance.engine.started if r.phase == "initializing"][1:] and instance.engine.started
    )
    first.release.set()
    await until(lambda: "RUNNING" in instance.status().replica_states)
    assert routed(instance) == set()
    assert [r.message for r in instance.status().replicas if r.state == "RUNNING"] == [
        "waits for the other replicas of its gang"
    ]
    second.release.set()
    await until(lambda: len(routed(instance)) == 2)
    await instance.until_status("HEALTHY")


async def test_a_gang_that_loses_a_replica_is_replaced_and_others_serve_on(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(count=4, graceful_shutdown_timeout_s=30))])
    await instance.until_status("HEALTHY")
    broken, kept = by_gang(instance).values()
    sibling = broken[1]
    await instance.engine.die(broken[0])
    await until(lambda: not {r.replica_id for r in broken} & routed(instance))
    assert {r.replica_id for r in kept} <= routed(instance)
    await until(lambda: len(routed(instance)) == 4)
    assert sibling.drained is not None and sibling.drained.timeout_s == 5.0
    assert sibling.process.name not in instance.engine.alive
    assert {r.replica_id for r in kept} < routed(instance)
    status = await instance.until_status("HEALTHY")
    assert status.replica_states == {"RUNNING": 4}
    assert len(instance.engine.started) == 6


async def test_a_gang_counts_as_one_failure_however_many_of_it_fail(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(size=4, count=4, code=b"raise"))])
    status = await instance.until_status("DEPLOY_FAILED")
    assert "3 failed starts" in status.message
    assert len(instance.engine.started) == 12
    await until(lambda: not instance.engine.alive)


async def test_a_replica_that_always_fails_slows_its_gang_down_though_the_other_comes_up(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of())])
    await instance.until_status("HEALTHY")
    start = instance.engine.start

    async def half(spec: Any) -> Any:
        if spec.args["gang"]["rank"] == 1:
            await until(lambda: len(instance.engine.serving) == 1)
            raise StartupError("no such file")
        return await start(spec)

    instance.engine.start = half  # type: ignore[method-assign]
    await instance.engine.die(instance.engine.serving[0])
    await until(lambda: re.search(r"Next try in [1-9]", instance.status().message))
    assert len(instance.engine.started) < 9


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0", "1", "2"])])
async def test_two_gangs_never_hold_half_of_what_they_need_each(instance: Instance) -> None:
    gpu = {"ray_actor_options": {"num_gpus": 1}}
    apps = [
        application(
            deployment(app=name, num_replicas=2, gang_scheduling_config={"gang_size": 2}, **gpu),
            name=name,
            route_prefix=f"/{name}",
        )
        for name in ("one", "two")
    ]
    instance.controller.deploy(apps)
    await instance.until_status("HEALTHY", app="one")
    await until(lambda: "Waiting for resources" in instance.status(app="two").message)
    assert "the 2 replicas of its gang need 2 whole GPUs, 1 of 3 are free" in instance.status(app="two").message
    assert len(instance.engine.alive) == len(instance.engine.allocator.held) == 2
    instance.controller.delete(["one"])
    await instance.until_status("HEALTHY", app="two")


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0", "1"])])
async def test_a_gang_that_is_too_large_is_refused_for_good(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(size=4, count=4, ray_actor_options={"num_gpus": 1}))])
    status = await instance.until_status("DEPLOY_FAILED")
    assert "the 4 replicas of its gang need 4 GPUs, this machine has 2" in status.message
    assert not instance.engine.started


@pytest.mark.parametrize("machine", [Machine(num_cpus=1.0, gpus=["0", "1", "2", "3"])])
async def test_without_room_an_update_exchanges_one_gang_after_the_other(instance: Instance) -> None:
    gpu = {"ray_actor_options": {"num_gpus": 1}}
    instance.controller.deploy([application(gang_of(count=4, **gpu))])
    await instance.until_status("HEALTHY")
    fewest = 4
    instance.controller.deploy([application(gang_of(count=4, version="v2", **gpu))])

    def updated() -> bool:
        nonlocal fewest
        fewest = min(fewest, len(routed(instance)))
        return {r.process.args["version"] for r in instance.engine.serving} == {"v2"} and len(routed(instance)) == 4

    await until(updated)
    await instance.until_status("HEALTHY")
    assert fewest == 2


async def test_an_update_never_serves_with_less_than_before(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(count=4))])
    await instance.until_status("HEALTHY")
    old, fewest = routed(instance), 4
    instance.controller.deploy([application(gang_of(size=4, count=4, version="v2"))])

    def updated() -> bool:
        nonlocal fewest
        fewest = min(fewest, len(routed(instance)))
        return not old & routed(instance) and len(instance.engine.alive) == 4

    await until(updated)
    assert fewest >= 4
    assert {place_of(r).world_size for r in instance.engine.serving} == {4}
    await instance.until_status("HEALTHY")


async def test_gangs_are_scaled_in_whole_ones(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(count=2))])
    await instance.until_status("HEALTHY")
    [first] = by_gang(instance)
    instance.controller.deploy([application(gang_of(count=6))])
    await instance.until_status("HEALTHY")
    assert [len(gang) for gang in by_gang(instance).values()] == [2, 2, 2]
    instance.controller.deploy([application(gang_of(count=2))])
    await until(lambda: len(instance.engine.alive) == 2)
    await instance.until_status("HEALTHY")
    assert list(by_gang(instance)) == [first]


async def test_a_new_user_config_reaches_every_replica_of_a_gang(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(user_config=1))])
    await instance.until_status("HEALTHY")
    instance.controller.deploy([application(gang_of(user_config=2))])
    await instance.until_status("HEALTHY")
    assert all(r.reconfigured[-1].options["user_config"] == 2 for r in instance.engine.serving)
    assert len(instance.engine.started) == 2


async def test_a_new_controller_adopts_whole_gangs_and_replaces_broken_ones(instance: Instance) -> None:
    instance.controller.deploy([application(gang_of(count=4))])
    await instance.until_status("HEALTHY")
    broken, kept = by_gang(instance).values()
    await instance.stop()
    await instance.engine.die(broken[0])
    await instance.start()
    assert not {r.replica_id for r in broken} & routed(instance)
    await until(lambda: len(routed(instance)) == 4)
    assert broken[1].process.name not in instance.engine.alive
    assert len(instance.engine.started) == 6
    assert {r.replica_id for r in kept} < routed(instance)


async def test_a_controller_that_ends_in_the_middle_of_a_gangs_start_leaves_no_half_one(instance: Instance) -> None:
    start, halves = instance.engine.start, asyncio.Event()

    async def only_one(spec: Any) -> Any:
        if instance.engine.started:
            await halves.wait()  # the second is never asked for: the controller is gone before
        return await start(spec)

    instance.engine.start = only_one  # type: ignore[method-assign]
    instance.controller.deploy([application(gang_of())])
    half = await until(lambda: instance.engine.serving and instance.engine.serving[0])
    await instance.stop()
    instance.engine.start = start  # type: ignore[method-assign]
    await instance.start()
    await until(lambda: len(routed(instance)) == 2)
    assert half.process.name not in instance.engine.alive
    assert half.replica_id not in routed(instance)
    assert len(instance.engine.alive) == 2
