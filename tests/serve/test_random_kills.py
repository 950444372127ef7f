"""Processes that are killed at random, one after the other, under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import ids, until

pytestmark = pytest.mark.local_engine("the processes that it kills are the children of one root")

CLIENTS = 8
EVERY_S = 2.0
LARGE = 1024 * 1024
"""Bytes: goes through shared memory."""


@serve.deployment(num_replicas=2, max_ongoing_requests=50, health_check_period_s=1)
class Model:
    async def __call__(self, payload: bytes) -> bytes:
        await asyncio.sleep(0.02)
        return payload


@serve.deployment(num_replicas=2, max_ongoing_requests=50, health_check_period_s=1)
class Ingress:
    def __init__(self, model: Any) -> None:
        self.model = model

    async def __call__(self, request: Any) -> str:
        payload = bytes(LARGE if request.query_params.get("large") else 1)
        answer = await self.model.options(retryable=True).remote(payload)
        return "answer" if answer == payload else "something else"


class Outcome:
    """What came of one request: `killed` is whether a process was killed while it was in flight."""

    def __init__(self, began: float, ended: float, status: int | None) -> None:
        self.began, self.ended, self.status = began, ended, status


async def _client(url: str, path: str, stop: threading.Event, outcomes: list[Outcome]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = await client.get(path)
                status: int | None = answer.status_code
                assert status != 200 or answer.text == "answer"
            except httpx.TransportError as error:
                assert not isinstance(error, httpx.TimeoutException), "a request was never answered"
                status = None  # the proxy that had it was killed
            outcomes.append(Outcome(began, time.monotonic(), status))


def _killable(instance: driver.Client) -> list[psutil.Process]:
    """Replicas, proxies, the controller and the guardian: all but the root, whose end is the instance's."""
    return _living(psutil.Process(instance.session.root_pid).children())


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if _status(process) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _leftovers(instance: driver.Client) -> dict[str, Any]:
    """What there is of the instance; of shared memory, what belongs to no living process."""
    folder = instance.session.dir
    shared = Path(f"/dev/shm/headrace-{folder.name}")
    root = psutil.Process(instance.session.root_pid)
    living = _living(root.children(recursive=True))
    owners = {str(process.pid) for process in living} | {str(os.getpid())}
    # The last logs of replicas that have ended are kept, for who wants to know why: ten of a deployment.
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "logs"]
    return {
        "processes": sorted(p.name() for p in living),
        "sockets": len([path for path in folder.iterdir() if path.is_socket()]),
        "files": sorted(path.name for path in files),
        "segments": [p.name for p in shared.glob("*-*") if p.name.partition("-")[0] not in owners],
        "root's descriptors": root.num_fds(),
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [10, pytest.param(60, marks=pytest.mark.full)])
def test_random_kills_cost_only_what_was_in_flight_and_leave_nothing_behind(
    count: int, http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Ingress.bind(Model.bind()))
    assert http.get("/?large=1").text == "answer"
    before = _leftovers(instance)
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    stop = threading.Event()
    outcomes: list[Outcome] = []
    kills: list[tuple[float, str]] = []

    def kill_at_random() -> None:
        for _ in range(count):
            victim = dice.choice(_killable(instance))
            kills.append((time.monotonic(), victim.name()))
            os.kill(victim.pid, signal.SIGKILL)
            threading.Event().wait(EVERY_S)  # the rhythm of the kills, not a wait for anything
        stop.set()

    async def load() -> None:
        killing = asyncio.create_task(asyncio.to_thread(kill_at_random))
        paths = ["/?large=1", *["/"] * (CLIENTS - 1)]
        await asyncio.gather(*(_client(str(http.base_url), path, stop, outcomes) for path in paths))
        await killing

    asyncio.run(load())
    failed = [outcome for outcome in outcomes if outcome.status != 200]
    what = f"seed {seed}, kills {kills}, failed {[(o.began, o.ended, o.status) for o in failed]}"
    assert len(outcomes) > 25 * count * EVERY_S, what
    for outcome in failed:
        # What was in flight when a process was killed; the kill is noted just before it happens.
        assert any(outcome.began <= at + 0.02 and outcome.ended >= at for at, _ in kills), what
    assert len(failed) <= CLIENTS * len(kills), what
    assert {outcome.status for outcome in failed} <= {None, 503}, what

    until(lambda: len(ids("Model")) == len(ids("Ingress")) == 2)
    assert http.get("/").text == "answer"
    try:
        until(lambda: _leftovers(instance) == before)
    except AssertionError:
        raise AssertionError(f"{_leftovers(instance)}, before {before}; {what}") from None
