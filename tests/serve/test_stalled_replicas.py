"""Replicas that are alive and do not answer: stopped ones are routed around and replaced, busy ones are left alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import ids, running, until


@serve.deployment(num_replicas=2, max_ongoing_requests=100, health_check_period_s=0.2, health_check_timeout_s=2)
class Worker:
    async def __call__(self, request: Any) -> int:
        await asyncio.sleep(0.02)
        return os.getpid()


async def _answers(url: str, clients: int, fault: Callable[[], None], end: Callable[[], bool]) -> list[Any]:
    """Under `clients` POSTs at a time, cause `fault` and go on until `end()`: when each began and how it went."""
    seen: list[Any] = []
    done = False
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def one() -> None:
            while not done:
                began = time.monotonic()
                answer = await client.post("/")
                seen.append((began, time.monotonic() - began, answer.status_code, answer.text))

        tasks = [asyncio.create_task(one()) for _ in range(clients)]
        await asyncio.to_thread(until, lambda: len(seen) >= 20 * clients)
        fault()
        await asyncio.to_thread(until, end)
        done = True
        await asyncio.gather(*tasks)
    return seen


def test_a_stopped_replica_is_routed_around_within_a_second_and_replaced(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Worker.bind())
    victim = running("Worker")[0]
    assert victim.pid
    process = psutil.Process(victim.pid)
    stopped_at = 0.0

    def stop() -> None:
        nonlocal stopped_at
        stopped_at = time.monotonic()
        process.send_signal(signal.SIGSTOP)

    def replaced() -> bool:
        return victim.replica_id not in ids("Worker") and len(ids("Worker")) == 2

    # More clients than requests can hang at the stopped replica: some go on.
    seen = asyncio.run(_answers(instance.http_url or "", 16, stop, replaced))
    later = [(took_s, status) for began, took_s, status, _ in seen if began > stopped_at + 1.0]
    assert {status for _, status in later} == {200}
    assert max(took_s for took_s, _ in later) < 1.0
    # Those in flight on it are told when it is replaced, and no later.
    assert {status for _, _, status, _ in seen} <= {200, 503}
    assert max(took_s for _, took_s, _, _ in seen) < 2 + 0.2 + 2.5
    until(lambda: not process.is_running())


def test_a_replica_that_was_stopped_for_a_moment_serves_again(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Worker.options(health_check_timeout_s=30).bind())
    before = ids("Worker")
    victim = running("Worker")[0].pid
    assert victim

    def routed_around() -> bool:
        try:
            http.post("/", timeout=0.5)
        except httpx.ReadTimeout:
            return False
        return True

    # Where the proxy is not connected to it yet, no request would ever come there.
    until(lambda: http.post("/").text == str(victim))
    os.kill(victim, signal.SIGSTOP)
    try:
        until(lambda: not routed_around())  # found out by a request that hangs there
        until(lambda: all(routed_around() for _ in range(20)))
    finally:
        os.kill(victim, signal.SIGCONT)
    until(lambda: http.post("/").text == str(victim))
    assert ids("Worker") == before


@serve.deployment(num_replicas=2, max_ongoing_requests=10, health_check_period_s=0.1, health_check_timeout_s=0.3)
class Blocking:
    async def block(self, seconds: float) -> int:
        time.sleep(seconds)  # noqa: ASYNC251 - what users do
        return os.getpid()

    async def pid(self) -> int:
        return os.getpid()


def test_a_replica_whose_code_blocks_for_longer_than_the_health_timeout_is_left_alone(
    http: httpx.Client,
) -> None:
    handle = serve.run(Blocking.bind())
    before = ids("Blocking")
    busy = handle.block.remote(3.0)
    until(lambda: any("busy" in (replica.message or "") for replica in running("Blocking")))
    # Others answer meanwhile.
    free = {handle.pid.remote().result(timeout_s=10) for _ in range(20)}
    pid = busy.result(timeout_s=30)
    assert len(free - {pid}) == 1
    assert ids("Blocking") == before
    until(lambda: pid in {handle.pid.remote().result(timeout_s=10) for _ in range(20)})


@serve.deployment(num_replicas=2, max_ongoing_requests=10, health_check_period_s=0.1, health_check_timeout_s=0.3)
class Busy:
    async def block(self, begun: str, enough: str) -> int:
        Path(begun).touch()  # noqa: ASYNC240
        while not Path(enough).exists():  # noqa: ASYNC240
            time.sleep(0.01)  # noqa: ASYNC251
        return os.getpid()

    async def keep_the_lock(self, begun: str, enough: str) -> int:
        # For some ten seconds no other thread of the process runs, as code in C may have it.
        Path(begun).touch()  # noqa: ASYNC240
        re.match("(a+)+b", "a" * 28)
        return os.getpid()


@pytest.mark.parametrize("how", ["block", pytest.param("keep_the_lock", marks=pytest.mark.full)])
def test_a_new_controller_leaves_a_busy_replica_alone_and_is_not_held_up_by_it(
    how: str, http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    handle = serve.run(Busy.bind())
    before = ids("Busy")
    busy = getattr(handle, how).remote(str(tmp_path / "begun"), str(tmp_path / "enough"))
    until((tmp_path / "begun").exists)
    controller = instance.status().controller_pid
    os.kill(controller, signal.SIGKILL)
    until(lambda: instance.status().controller_pid != controller)
    # It takes on work before the busy one has answered.
    serve.run(Worker.options(name="Other", num_replicas=1).bind(), name="other", route_prefix="/other")
    assert http.post("/other").status_code == 200
    assert not busy.done() or how == "keep_the_lock"  # on a busy machine that ends first
    (tmp_path / "enough").touch()
    busy.result(timeout_s=60)
    until(lambda: ids("Busy") == before)


@serve.deployment(num_replicas=3)
class Uneven:
    async def __call__(self, request: Any) -> str:
        slow = serve.get_replica_context().rank.rank == 0
        await asyncio.sleep(0.05 if slow else 0.001)
        return "slow" if slow else "fast"


def test_a_replica_that_is_far_slower_than_its_peers_is_tried_less_and_tried_again(http: httpx.Client) -> None:
    serve.run(Uneven.bind())
    # One request after the other: by their load alone, the replicas are all alike.
    until(lambda: all(http.get("/").text == "fast" for _ in range(100)))
    until(lambda: http.get("/").text == "slow")


def test_a_slow_replica_serves_where_the_others_have_no_room(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Uneven.options(max_ongoing_requests=1).bind())
    until(lambda: all(http.get("/").text == "fast" for _ in range(100)))

    async def burst() -> list[str]:
        async with httpx.AsyncClient(base_url=http.base_url, timeout=30) as client:
            return [answer.text for answer in await asyncio.gather(*(client.get("/") for _ in range(10)))]

    assert set(asyncio.run(burst())) == {"fast", "slow"}
