"""Gangs of real processes: they start, serve, are updated, are scaled and fail as one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.context import GangContext

from .conditions import deployment, ids, lines, running, until
from .loads import under_load


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    """An instance that believes in eight GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("HEADRACE_NUM_GPUS", "8")
        serve.start(http_options={"port": 0}, rest_options={"port": 0})
        yield driver.find()
        serve.shutdown()


@serve.deployment(num_replicas=4, gang_scheduling_config={"gang_size": 2}, graceful_shutdown_timeout_s=5)
class Member:
    """`note`: file in which each replica that starts writes its gang and its rank."""

    def __init__(self, version: str = "1", note: str = "", wait_for: str = "") -> None:
        self.version = version
        gang = serve.get_replica_context().gang_context
        assert gang is not None
        self.gang = gang
        if note:
            with open(note, "a") as file:
                file.write(f"{gang.gang_id} {gang.rank}\n")
        if wait_for and gang.rank == 1:
            until(lambda: Path(wait_for).exists(), 60)

    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(0.01)
        return f"{self.version} {self.gang.gang_id} {os.getpid()}"

    def context(self) -> tuple[str, GangContext]:
        return serve.get_replica_context().replica_id.unique_id, self.gang


def contexts(handle: Any, replicas: int) -> dict[str, GangContext]:
    """The gang of each replica, by its id."""
    found: dict[str, GangContext] = {}
    until(lambda: found.update([handle.context.remote().result(timeout_s=10)]) or len(found) == replicas)
    return found


def gangs(handle: Any, replicas: int) -> dict[str, list[str]]:
    """The replicas of each gang, by rank."""
    found: dict[str, list[str]] = {}
    for gang in contexts(handle, replicas).values():
        found[gang.gang_id] = gang.member_replica_ids
    return found


def test_replicas_know_their_gang_their_rank_and_each_other(http: httpx.Client) -> None:
    handle = serve.run(Member.bind())
    found = contexts(handle, 4)
    assert len({gang.gang_id for gang in found.values()}) == 2
    for replica_id, gang in found.items():
        assert gang.world_size == 2 and gang.pg_name == ""
        assert gang.member_replica_ids[gang.rank] == replica_id
        assert set(gang.member_replica_ids) <= found.keys()


def test_a_replica_without_a_gang_has_no_gang_context(http: httpx.Client) -> None:
    @serve.deployment
    def context() -> Any:
        return serve.get_replica_context().gang_context

    assert serve.run(context.bind()).remote().result() is None


def test_a_gang_is_replaced_when_one_of_it_is_killed_under_load_and_the_other_gang_serves_on(
    http: httpx.Client, instance: driver.Client
) -> None:
    handle = serve.run(Member.bind())
    before = gangs(handle, 4)
    broken, kept = before.values()
    victim = next(replica for replica in running("Member") if replica.replica_id == broken[1])

    def kill() -> None:
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: not set(broken) & ids("Member") and len(ids("Member")) == 4)

    answers = asyncio.run(under_load(instance.http_url or "", kill))
    failed = [answer for answer in answers if answer[0] != 200]
    # No POST is sent twice: those that the killed replica worked on fail, and no others.
    assert all(status == 503 for status, _ in failed) and len(failed) <= 5
    assert set(kept) < ids("Member")
    after = gangs(handle, 4)
    assert len(after) == 2 and len(after.keys() & before.keys()) == 1


def test_an_update_rolls_through_whole_gangs_and_fails_no_request(http: httpx.Client, instance: driver.Client) -> None:
    handle = serve.run(Member.bind("1"))
    old = gangs(handle, 4)
    answers = asyncio.run(under_load(instance.http_url or "", lambda: serve.run(Member.bind("2"))))
    assert {status for status, _ in answers} == {200}
    new = gangs(handle, 4)
    assert not old.keys() & new.keys() and len(new) == 2
    assert {text.split()[0] for _, text in answers} == {"1", "2"}


def test_a_gang_takes_no_request_before_the_last_of_it_runs(http: httpx.Client, tmp_path: Path) -> None:
    note, go = tmp_path / "note", tmp_path / "go"
    waits = Member.options(num_replicas=2).bind(note=str(note), wait_for=str(go))
    [handle] = serve.run_many([serve.RunTarget(waits)], wait_for_applications_running=False)
    until(lambda: len(running("Member")) == 1 and len(lines(note)) == 2)
    answer = handle.context.remote()
    with pytest.raises(TimeoutError):
        answer.result(timeout_s=0.5)
    go.touch()
    assert answer.result(timeout_s=20)[1].world_size == 2


def test_gangs_scale_in_multiples(http: httpx.Client) -> None:
    handle = serve.run(Member.options(num_replicas=2).bind())
    [first] = gangs(handle, 2)
    handle = serve.run(Member.options(num_replicas=6).bind())
    assert len(gangs(handle, 6)) == 3 and first in gangs(handle, 6)
    serve.run(Member.options(num_replicas=2).bind())
    until(lambda: len(running("Member")) == 2 == len(deployment("Member").replicas))
    assert gangs(handle, 2).keys() == {first}


def test_load_scales_gangs_in_multiples(http: httpx.Client) -> None:
    scaling = {
        "min_replicas": 2,
        "max_replicas": 6,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0.2,
        "look_back_period_s": 0.2,
        "metrics_interval_s": 0.1,
    }

    @serve.deployment(gang_scheduling_config={"gang_size": 2}, autoscaling_config=scaling, max_ongoing_requests=10)
    async def busy(seconds: float) -> None:
        await asyncio.sleep(seconds)

    handle = serve.run(busy.bind())
    assert deployment("busy").target_num_replicas == 2
    under_way = [handle.remote(60) for _ in range(5)]  # three replicas' worth
    until(lambda: deployment("busy").target_num_replicas == 4)
    until(lambda: len(running("busy")) == 4)
    for response in under_way:
        response.cancel()
    until(lambda: len(running("busy")) == 2)


@pytest.mark.local_engine("a cluster's machines say themselves what they have")
def test_a_gang_gets_all_its_gpus_or_none(http: httpx.Client) -> None:
    gpus = {"ray_actor_options": {"num_gpus": 3}, "num_replicas": 2}
    serve.run(Member.options(**gpus).bind(), name="first", route_prefix=None)
    target = serve.RunTarget(Member.options(**gpus).bind(), name="second", route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)
    until(lambda: "Waiting for resources" in deployment("Member", "second").message)
    message = deployment("Member", "second").message
    assert "the 2 replicas of its gang need 6 whole GPUs, 2 of 8 are free" in message
    assert deployment("Member", "second").replicas == []
    serve.delete("first")
    until(lambda: len(running("Member", "second")) == 2)


@pytest.mark.local_engine("it stops the controller's process before it kills it")
def test_a_controller_killed_in_the_middle_of_a_gangs_start_leaves_no_half_gang(
    http: httpx.Client, tmp_path: Path
) -> None:
    note, go = tmp_path / "note", tmp_path / "go"
    waits = Member.options(num_replicas=4).bind(note=str(note), wait_for=str(go))
    serve.run_many([serve.RunTarget(waits)], wait_for_applications_running=False)
    until(lambda: len(lines(note)) == 4)
    status = driver.find().status()
    starting = [replica for replica in deployment("Member").replicas if replica.state == "STARTING"]
    half = starting[0]
    assert half.pid is not None
    # Its gang is broken while nobody looks.
    os.kill(status.controller_pid, signal.SIGSTOP)
    os.kill(half.pid, signal.SIGKILL)
    os.kill(status.controller_pid, signal.SIGKILL)
    go.touch()
    until(lambda: driver.find().status().controller_pid != status.controller_pid)
    until(lambda: len(running("Member")) == 4 == len(deployment("Member").replicas))
    started = [line.split()[0] for line in lines(note)]
    assert len(started) == 6 and len(set(started)) == 3, "the other gang was left alone"
    assert half.replica_id not in ids("Member")
    handle = serve.get_app_handle("default")
    assert len(gangs(handle, 4)) == 2


@pytest.mark.local_engine("a cluster's machines say themselves what they have")
def test_more_gangs_than_there_are_gpus_never_hold_half_of_them_each(http: httpx.Client) -> None:
    """Each needs five of eight: were they to take them one by one, all could wait for each other for ever."""
    names = [f"app{number}" for number in range(4)]
    wanted = Member.options(
        num_replicas=5, gang_scheduling_config={"gang_size": 5}, ray_actor_options={"num_gpus": 1}
    ).bind()
    targets = [serve.RunTarget(wanted, name=name, route_prefix=None) for name in names]
    serve.run_many(targets, wait_for_applications_running=False)
    left = set(names)
    while left:
        until(lambda: any(len(running("Member", name)) == 5 for name in left))
        served = next(name for name in left if len(running("Member", name)) == 5)
        for name in left - {served}:
            assert deployment("Member", name).replicas == []
        serve.delete(served)
        left.remove(served)
