"""Replicas follow the load: up under it, down after it, to zero and back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.config.spec import DeploymentStatus

from .conditions import deployment, ids, running, until

QUICK = {
    "upscale_delay_s": 0.1,
    "downscale_delay_s": 0.2,
    "metrics_interval_s": 0.05,
    "look_back_period_s": 0.2,
}


@serve.deployment(max_ongoing_requests=4)
class Gated:
    """Answers when the gate is there."""

    def __init__(self, gate: str) -> None:
        self.gate = Path(gate)

    async def __call__(self, request: Request) -> str:
        while not self.gate.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return "passed"


@serve.deployment
class Light:
    async def __call__(self, request: Request) -> str:
        return "here"

    async def stay(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "here"


@contextmanager
def requests(http: httpx.Client, gate: Path, count: int) -> Iterator[list[Any]]:
    """That many requests under way; all are let through, and answered, at the end."""
    with ThreadPoolExecutor(count) as threads, httpx.Client(base_url=http.base_url, timeout=30) as client:
        sent = [threads.submit(client.get, "/") for _ in range(count)]
        try:
            yield sent
        finally:
            gate.touch()
            assert [answer.result().text for answer in sent] == ["passed"] * count
            gate.unlink()


def scaling(name: str) -> list[tuple[int, int]]:
    """From how many to how many replicas, decision by decision."""
    found = deployment(name).autoscaling
    assert found is not None
    return [(decision.previous, decision.target) for decision in found.decisions]


def settled(status: DeploymentStatus, replicas: int) -> bool:
    return status.status == "HEALTHY" and status.replica_states == ({"RUNNING": replicas} if replicas else {})


def test_replicas_are_added_under_load_and_removed_after_it(http: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    bounds = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 2}
    serve.run(Gated.options(autoscaling_config={**QUICK, **bounds}).bind(str(gate)))
    assert len(running("Gated")) == 1
    with requests(http, gate, 6):
        until(lambda: settled(deployment("Gated"), 3))
        up = deployment("Gated")
        assert up.status_trigger == "UPSCALE_COMPLETED"
        assert up.autoscaling is not None and up.autoscaling.queued + up.autoscaling.running == 6
    until(lambda: settled(deployment("Gated"), 1))
    down = deployment("Gated")
    assert down.status_trigger == "DOWNSCALE_COMPLETED" and down.target_num_replicas == 1
    assert down.autoscaling is not None and down.autoscaling.queued + down.autoscaling.running == 0
    first = down.autoscaling.decisions[0]
    assert "ongoing requests" in first.reason and "upscale_delay_s=0.1" in first.reason
    assert time.time() - 60 < first.at < time.time()


def test_scaling_is_said_to_be_autoscaling_while_it_goes_on(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    slow_start = tmp_path / "start"

    @serve.deployment(autoscaling_config={**QUICK, "max_replicas": 2, "target_ongoing_requests": 1})
    class Slow:
        async def __init__(self) -> None:
            first = tmp_path / "first"
            while first.exists() and not slow_start.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            first.touch()

        async def __call__(self, request: Request) -> str:
            while not gate.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            return "passed"

    serve.run(Slow.bind())
    with requests(http, gate, 2):
        until(lambda: deployment("Slow").status == "UPSCALING")
        status = deployment("Slow")
        assert status.status_trigger == "AUTOSCALING" and status.message == "1 of 2 replicas running."
        assert serve.status().applications["default"].status == "RUNNING"
        slow_start.touch()
        until(lambda: settled(deployment("Slow"), 2))


def test_asleep_a_request_is_held_and_starts_a_replica(http: httpx.Client) -> None:
    asleep = {**QUICK, "min_replicas": 0, "max_replicas": 2, "metrics_interval_s": 600, "upscale_delay_s": 600}
    serve.run(Light.options(autoscaling_config=asleep).bind())
    assert deployment("Light").replicas == [] and deployment("Light").status == "HEALTHY"
    answer = http.get("/")
    assert (answer.status_code, answer.text) == (200, "here")
    assert scaling("Light") == [(0, 1)]


@pytest.mark.local_engine("Ray takes longer to start a process")
def test_it_goes_to_sleep_and_wakes_again_within_half_a_second(http: httpx.Client) -> None:
    serve.run(Light.options(autoscaling_config={**QUICK, "min_replicas": 0, "initial_replicas": 1}).bind())
    took_s = []
    for _ in range(3):
        until(lambda: settled(deployment("Light"), 0))
        begun = time.monotonic()
        assert http.get("/").text == "here"
        took_s.append(time.monotonic() - begun)
    assert min(took_s) < 0.5  # the others tell of what else the machine does


def test_a_request_in_the_moment_of_falling_asleep_is_answered(http: httpx.Client) -> None:
    """The dead zone just after scaling to zero: requests at every moment around it are answered soon."""
    options = {**QUICK, "min_replicas": 0, "downscale_delay_s": 0.05, "look_back_period_s": 0.06}
    serve.run(Light.options(autoscaling_config=options).bind())
    slowest_s = 0.0
    for pause_s in (0.12, 0.15, 0.18, 0.2, 0.22, 0.25) * 2:
        threading.Event().wait(pause_s)
        begun = time.monotonic()
        assert http.get("/").text == "here"
        slowest_s = max(slowest_s, time.monotonic() - begun)
    assert slowest_s < 3.0


def test_handles_wake_a_deployment_too(http: httpx.Client) -> None:
    handle = serve.run(Light.options(autoscaling_config={**QUICK, "min_replicas": 0}).bind())
    assert handle.stay.remote(0.0).result(timeout_s=5) == "here"


def test_requests_of_a_caller_that_died_count_no_more(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    slow_to_report = {"metrics_interval_s": 600, "min_replicas": 0, "downscale_delay_s": 0.2, "look_back_period_s": 0.2}
    serve.run(Gated.options(autoscaling_config=slow_to_report).bind(str(gate)))
    (proxy,) = instance.status().proxies
    assert proxy.pid is not None
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(http.get, "/")
        until(lambda: len(running("Gated")) == 1)
        os.kill(proxy.pid, signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            lost.result()
    until(lambda: settled(deployment("Gated"), 0))


def test_a_controller_that_starts_again_keeps_the_target(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    bounds = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 1}
    serve.run(Gated.options(autoscaling_config={**QUICK, **bounds}).bind(str(gate)))
    with requests(http, gate, 3):
        until(lambda: settled(deployment("Gated"), 3))
        before = ids("Gated")
        controller = instance.status().controller_pid
        os.kill(controller, signal.SIGKILL)
        until(lambda: instance.status().controller_pid != controller)
        until(lambda: settled(deployment("Gated"), 3))
        assert ids("Gated") == before
        assert deployment("Gated").target_num_replicas == 3
    until(lambda: settled(deployment("Gated"), 1))  # and it goes on scaling


def test_new_settings_of_autoscaling_restart_nothing(http: httpx.Client) -> None:
    serve.run(Light.options(autoscaling_config={"min_replicas": 1, "max_replicas": 2}).bind())
    (one,) = ids("Light")
    serve.run(Light.options(autoscaling_config={"min_replicas": 2, "max_replicas": 2}).bind())
    until(lambda: settled(deployment("Light"), 2))
    assert one in ids("Light")
    serve.run(Light.options(num_replicas=1).bind())
    until(lambda: settled(deployment("Light"), 1))
    assert deployment("Light").autoscaling is None


def test_auto_is_one_to_a_hundred_replicas(http: httpx.Client) -> None:
    serve.run(Light.options(num_replicas="auto").bind())
    assert len(running("Light")) == 1
    options = deployment("Light").options["autoscaling_config"]
    assert (options["min_replicas"], options["max_replicas"]) == (1, 100)


def test_decisions_are_in_the_rest_api(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.options(autoscaling_config={**QUICK, "min_replicas": 0, "downscale_delay_s": 600}).bind())
    assert http.get("/").text == "here"
    address = f"http://{instance.status().rest_host}:{instance.status().rest_port}"
    details = httpx.get(f"{address}/api/serve/applications/").json()["applications"]["default"]["deployments"]["Light"]
    (decision,) = details["autoscaling_detail"]["decisions"]
    assert (decision["prev_num_replicas"], decision["curr_num_replicas"]) == (0, 1)
    assert decision["reason"] == "a request came while there was no replica"


def test_a_class_that_cannot_start_fails_the_requests_that_would_wake_it(http: httpx.Client) -> None:
    @serve.deployment(autoscaling_config={**QUICK, "min_replicas": 0}, max_constructor_retry_count=1)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such model")

        async def __call__(self, request: Request) -> str:
            return "never"

    serve.run(Broken.bind())
    answer = http.get("/")
    assert answer.status_code == 503
    status = deployment("Broken")
    assert status.status == "DEPLOY_FAILED" and "no such model" in status.message
