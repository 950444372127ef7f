"""Targets other than requests: a latency that holds, numbers of the user's own, a schedule, a percentage of all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver

from .conditions import deployment, ids, running, until

QUICK = {
    "upscale_delay_s": 0.1,
    "downscale_delay_s": 0.2,
    "metrics_interval_s": 0.05,
    "look_back_period_s": 0.2,
}


@serve.deployment(max_ongoing_requests=100)
class Crowded:
    """Takes longer the more it has to do at a time."""

    def __init__(self) -> None:
        self.ongoing = 0

    async def __call__(self, request: Request) -> str:
        self.ongoing += 1
        try:
            await asyncio.sleep(0.05 * self.ongoing)
        finally:
            self.ongoing -= 1
        return "done"


@serve.deployment
class Telling:
    """Tells what stands in a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def record_autoscaling_stats(self) -> Any:
        return json.loads(self.path.read_text())

    async def __call__(self) -> str:
        return "here"


class Clients:
    """Ask again and again, and keep how long each answer took."""

    def __init__(self, url: str, connections: int) -> None:
        self._url, self._connections = url, connections
        self._answers: list[tuple[float, float]] = []

    async def ask_until_slowest_below(self, seconds: float, deadline_s: float) -> list[float]:
        """Until, of 50 answers in a row that came within a few seconds, 98 % took less than `seconds`.

        Returns:
            The latencies of the first answers.
        """
        holds = asyncio.Event()

        async def keep_asking(client: httpx.AsyncClient) -> None:
            while not holds.is_set():
                begun = time.monotonic()
                (await client.get("/")).raise_for_status()
                self._answers.append((time.monotonic(), time.monotonic() - begun))
                last = sorted(took for _, took in self._answers[-50:])
                if len(last) == 50 and last[48] < seconds:
                    holds.set()

        async with (
            asyncio.timeout(deadline_s),
            httpx.AsyncClient(base_url=self._url, timeout=30) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._connections):
                group.create_task(keep_asking(client))
        return [took for _, took in self._answers[: self._connections]]


def reason(name: str) -> str:
    found = deployment(name).autoscaling
    assert found is not None
    return found.reason


def test_a_deployment_is_scaled_until_its_p99_holds(http: httpx.Client, instance: driver.Client) -> None:
    scaling = {
        "min_replicas": 1,
        "max_replicas": 8,
        "target_latency_p99_s": 0.4,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 60,
        "metrics_interval_s": 0.25,
        "look_back_period_s": 2,
    }
    serve.run(Crowded.options(autoscaling_config=scaling).bind())
    # One replica has 16 requests at a time, and takes 0.8 s for each.
    clients = Clients(instance.http_url or "", connections=16)
    first = asyncio.run(clients.ask_until_slowest_below(0.4, deadline_s=60))
    assert sorted(first)[8] > 0.4, "the load is too little for this test"
    assert 2 <= len(running("Crowded")) <= 8
    decisions = deployment("Crowded").autoscaling
    assert decisions is not None and "p99 of the latency" in decisions.decisions[0].reason


def test_what_replicas_tell_of_themselves_scales_and_goes_with_them(http: httpx.Client, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text('{"kv_cache_use": 0.9}')
    scaling = {**QUICK, "max_replicas": 4, "target_metrics": {"kv_cache_use": 0.5}}
    serve.run(Telling.options(autoscaling_config=scaling).bind(str(told)))
    # Each new one is as full as those before: as many as are allowed.
    until(lambda: len(running("Telling")) == 4)
    assert "kv_cache_use adds up to 3.6 over 4 replicas" in reason("Telling")
    told.write_text('{"kv_cache_use": 0.1}')
    until(lambda: len(running("Telling")) == 1)
    # One that is gone counts no more; the one that takes its place does.
    [before] = ids("Telling")
    pid = running("Telling")[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: ids("Telling") not in (set(), {before}))
    until(lambda: "adds up to 0.1 over 1 replicas" in reason("Telling"))


def test_numbers_that_are_none_are_passed_over_and_others_are_not(http: httpx.Client, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text('{"kv_cache_use": "full", "waiting": 6}')
    scaling = {**QUICK, "max_replicas": 3, "target_metrics": {"kv_cache_use": 0.5, "waiting": 20}}
    serve.run(Telling.options(autoscaling_config=scaling).bind(str(told)))
    until(lambda: "waiting adds up to 6 over 1 replicas" in reason("Telling"))
    assert len(running("Telling")) == 1


def test_a_schedule_holds_at_once_and_no_longer_when_it_is_removed(http: httpx.Client, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("{}")
    always = {"cron": "* * * * *", "duration_s": 120, "timezone": "Asia/Kolkata", "min_replicas": 3}
    slow = {**QUICK, "upscale_delay_s": 600, "max_replicas": 5}
    serve.run(Telling.options(autoscaling_config={**slow, "schedule": [always]}).bind(str(told)))
    until(lambda: len(running("Telling")) == 3)
    scaling = deployment("Telling").autoscaling
    assert scaling is not None
    assert scaling.decisions[0].reason == (
        "the schedule '* * * * *' (Asia/Kolkata) sets the minimum to 3, and 1 were wanted"
    )
    serve.run(Telling.options(autoscaling_config=slow).bind(str(told)))
    until(lambda: len(running("Telling")) == 1)


# A percentage of all replicas.

CODE = """
import headrace as serve

@serve.deployment(num_replicas=4)
class Fixed:
    async def __call__(self) -> str:
        return "here"

@serve.deployment(
    autoscaling_config={"min_replicas": 2, "max_replicas": 6, "initial_replicas": 4, "downscale_delay_s": 0.1,
                        "metrics_interval_s": 0.05, "look_back_period_s": 0.1}
)
class Scaled:
    async def __call__(self) -> str:
        return "here"

@serve.deployment
class Front:
    def __init__(self, *others) -> None: ...

    async def __call__(self) -> str:
        return "here"

app = Front.bind(Fixed.bind(), Scaled.bind())
"""


@pytest.fixture
def rest(http: httpx.Client, instance: driver.Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{instance.rest_url}/api/serve", timeout=30) as client:
        yield client


def test_target_capacity_is_a_percentage_of_all_replicas_and_outlives_the_controller(
    rest: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    (tmp_path / "apps.py").write_text(CODE)
    application = {"name": "parts", "import_path": "apps:app", "runtime_env": {"working_dir": str(tmp_path)}}

    def put(capacity: float | None) -> None:
        body = {"applications": [application], "target_capacity": capacity}
        rest.put("/applications/", json=body).raise_for_status()

    def settled(fixed: int, scaled: int) -> bool:
        found = {name: len(running(name, "parts")) for name in ("Fixed", "Scaled")}
        status = rest.get("/applications/").json()["applications"]["parts"]["status"]
        return found == {"Fixed": fixed, "Scaled": scaled} and status == "RUNNING"

    def known() -> bool:
        return "parts" in rest.get("/applications/").json()["applications"] and bool(
            rest.get("/applications/").json()["applications"]["parts"]["deployments"]
        )

    put(50)  # a first config is on its way up: `initial_replicas` is the minimum
    until(known)
    until(lambda: settled(fixed=2, scaled=2))
    assert rest.get("/applications/").json()["target_capacity"] == serve.status().target_capacity == 50
    first = ids("Fixed", "parts")

    controller = instance.status().controller_pid
    os.kill(controller, signal.SIGKILL)
    until(lambda: instance.status().controller_pid != controller)
    assert rest.get("/applications/").json()["target_capacity"] == 50
    until(lambda: settled(fixed=2, scaled=2))
    assert ids("Fixed", "parts") == first

    put(75)  # further up
    until(lambda: settled(fixed=3, scaled=3))
    put(25)  # down: `min_replicas` is the minimum again
    until(lambda: settled(fixed=1, scaled=1))
    put(None)
    until(lambda: settled(fixed=4, scaled=2))
    assert rest.get("/applications/").json()["target_capacity"] is None
    put(0)
    until(lambda: settled(fixed=0, scaled=0))
