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

import headrace as serve
from headrace import client as driver

from .conditions import ids, until

CLIENTS = 8
KILLS = 10
EVERY_S = 2.0


@serve.deployment(num_replicas=2, max_ongoing_requests=50, health_check_period_s=1)
class Model:
    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(0.02)
        return "answer"


@serve.deployment(num_replicas=2, max_ongoing_requests=50, health_check_period_s=1)
class Ingress:
    def __init__(self, model: Any) -> None:
        self.model = model

    async def __call__(self, request: Any) -> str:
        return str(await self.model.options(retryable=True).remote(None))


class Outcome:
    """What came of one request: `killed` is whether a process was killed while it was in flight."""

    def __init__(self, began: float, ended: float, status: int | None) -> None:
        self.began, self.ended, self.status = began, ended, status


async def _client(url: str, stop: threading.Event, outcomes: list[Outcome]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        while not stop.is_set():
            began = time.monotonic()
            try:
                status: int | None = (await client.get("/")).status_code
            except httpx.TransportError as error:
                assert not isinstance(error, httpx.TimeoutException), "a request was never answered"
                status = None  # the proxy that had it was killed
            outcomes.append(Outcome(began, time.monotonic(), status))


def _killable(instance: driver.Client) -> list[psutil.Process]:
    """All processes but the root, whose end is the instance's, and the guardian beside it."""
    root = psutil.Process(instance.session.root_pid)
    named = [process for process in root.children() if process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in named if "guardian" not in process.name()]


def _leftovers(instance: driver.Client) -> dict[str, Any]:
    folder = instance.session.dir
    shared = Path(f"/dev/shm/headrace-{folder.name}")
    root = psutil.Process(instance.session.root_pid)
    living = [p for p in root.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return {
        "processes": sorted(p.name() for p in living),
        "sockets": len([path for path in folder.iterdir() if path.is_socket()]),
        "segments": len(list(shared.iterdir())) if shared.exists() else 0,
        "root's descriptors": root.num_fds(),
    }


def test_random_kills_cost_only_what_was_in_flight_and_leave_nothing_behind(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Ingress.bind(Model.bind()))
    assert http.get("/").text == "answer"
    before = _leftovers(instance)
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    stop = threading.Event()
    outcomes: list[Outcome] = []
    kills: list[tuple[float, str]] = []

    def kill_at_random() -> None:
        for _ in range(KILLS):
            victim = dice.choice(_killable(instance))
            kills.append((time.monotonic(), victim.name()))
            os.kill(victim.pid, signal.SIGKILL)
            threading.Event().wait(EVERY_S)  # the rhythm of the kills, not a wait for anything
        stop.set()

    async def load() -> None:
        killing = asyncio.create_task(asyncio.to_thread(kill_at_random))
        await asyncio.gather(*(_client(str(http.base_url), stop, outcomes) for _ in range(CLIENTS)))
        await killing

    asyncio.run(load())
    failed = [outcome for outcome in outcomes if outcome.status != 200]
    what = f"seed {seed}, kills {kills}, failed {[(o.began, o.ended, o.status) for o in failed]}"
    assert len(outcomes) > 100 * KILLS * EVERY_S / 4, what
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
