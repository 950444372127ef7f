"""Running an application again: what changed takes effect, what did not stays as it is, and no request is dropped."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import DeploymentFailedError, DeploymentUnavailableError, ReplicaUnavailableError

from .conditions import deployment, ids, lines, running, until
from .loads import under_load


def versioned(version: str, **options: Any) -> Any:
    """A deployment whose code answers with `version`."""

    class Model:
        async def __call__(self, request: Request) -> str:
            await request.body()
            return version

        async def pid(self) -> int:
            return os.getpid()

        async def wait_for(self, gate: Path) -> int:
            while not gate.exists():  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.005)
            return os.getpid()

    return serve.deployment(Model).options(**options)


def test_running_the_same_application_again_does_nothing(http: httpx.Client) -> None:
    serve.run(versioned("1", num_replicas=2).bind())
    before = ids("Model")
    deployed_at = serve.status().applications["default"].last_deployed_time_s
    serve.run(versioned("1", num_replicas=2).bind())
    assert ids("Model") == before
    assert serve.status().applications["default"].last_deployed_time_s > deployed_at


def test_a_new_number_of_replicas_scales_without_a_restart(http: httpx.Client) -> None:
    model = versioned("1")
    serve.run(model.bind())
    (one,) = ids("Model")
    serve.run(model.options(num_replicas=3).bind())
    assert one in ids("Model") and len(ids("Model")) == 3
    serve.run(model.options(num_replicas=2).bind())
    until(lambda: len(deployment("Model").replicas) == 2)
    assert one in ids("Model")


def test_limits_change_without_a_restart(http: httpx.Client, tmp_path: Path) -> None:
    model = versioned("1", max_ongoing_requests=1)
    handle = serve.run(model.bind())
    before = ids("Model")
    gate = tmp_path / "gate"
    first = handle.wait_for.remote(gate)
    second = handle.pid.remote()
    with pytest.raises(TimeoutError):
        second.result(timeout_s=0.1)
    serve.run(model.options(max_ongoing_requests=2).bind())
    second.result(timeout_s=10)
    gate.touch()
    first.result(timeout_s=10)
    assert ids("Model") == before


@pytest.mark.parametrize(("replicas", "connections"), [(1, 6), (4, 32)])
async def test_changed_code_rolls_out_without_a_dropped_request(
    http: httpx.Client, instance: driver.Client, replicas: int, connections: int
) -> None:
    await asyncio.to_thread(serve.run, versioned("1", num_replicas=replicas).bind())
    before = ids("Model")

    def change() -> None:
        serve.run(versioned("2", num_replicas=replicas).bind())

    answers = await under_load(instance.http_url or "", change, connections)
    assert {status for status, _ in answers} == {200}
    assert {text for _, text in answers} == {"1", "2"}
    assert answers[-1][1] == "2"
    until(lambda: len(deployment("Model").replicas) == replicas and not ids("Model") & before)


async def test_scaling_down_drops_no_request(http: httpx.Client, instance: driver.Client) -> None:
    model = versioned("1", num_replicas=4)
    await asyncio.to_thread(serve.run, model.bind())

    def change() -> None:
        serve.run(model.options(num_replicas=1).bind())
        until(lambda: len(deployment("Model").replicas) == 1)

    answers = await under_load(instance.http_url or "", change)
    assert {status for status, _ in answers} == {200}


def test_what_was_in_flight_at_a_redeploy_is_answered_by_the_old_replica(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(versioned("1").bind())
    old = handle.pid.remote().result()
    gate = tmp_path / "gate"
    response = handle.wait_for.remote(gate)
    serve.run(versioned("2").bind())
    assert handle.pid.remote().result() != old
    assert not response.done()
    gate.touch()
    assert response.result(timeout_s=10) == old
    until(lambda: not Path(f"/proc/{old}").exists())


def test_what_was_in_flight_at_a_delete_is_answered(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(versioned("1").bind())
    pid = handle.pid.remote().result()
    gate = tmp_path / "gate"
    response = handle.wait_for.remote(gate)
    serve.delete("default", _blocking=False)
    until(lambda: http.get("/").status_code == 404)
    assert serve.status().applications["default"].status == "DELETING"
    with pytest.raises(DeploymentUnavailableError, match="deleted"):
        handle.pid.remote().result(timeout_s=10)
    gate.touch()
    assert response.result(timeout_s=10) == pid
    until(lambda: "default" not in serve.status().applications)


def test_what_takes_longer_than_graceful_shutdown_timeout_s_is_cut_off(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(versioned("1", graceful_shutdown_timeout_s=0.1).bind())
    response = handle.wait_for.remote(tmp_path / "never")
    handle.pid.remote().result()
    serve.delete("default")
    with pytest.raises((ReplicaUnavailableError, serve.exceptions.RequestCancelledError)):
        response.result(timeout_s=10)


def test_code_that_fails_leaves_what_served_before(http: httpx.Client) -> None:
    serve.run(versioned("1", num_replicas=2).bind())
    before = ids("Model")

    class Model:
        def __init__(self) -> None:
            raise ValueError("broken release")

    with pytest.raises(DeploymentFailedError, match="broken release"):
        serve.run(serve.deployment(Model).options(num_replicas=2, max_constructor_retry_count=1).bind())
    assert ids("Model") >= before
    assert http.post("/").text == "1"
    assert serve.status().applications["default"].status == "DEPLOY_FAILED"
    serve.run(versioned("1", num_replicas=2).bind())
    assert ids("Model") == before
    assert serve.status().applications["default"].status == "RUNNING"


def test_a_version_that_is_never_healthy_stops_the_roll_and_says_why(http: httpx.Client) -> None:
    serve.run(versioned("1", num_replicas=2).bind())
    before = ids("Model")

    class Model:
        def check_health(self) -> None:
            raise RuntimeError("the index is empty")

        async def __call__(self, request: Request) -> str:
            return "2"

    with pytest.raises(DeploymentFailedError, match="the index is empty"):
        serve.run(serve.deployment(Model).options(num_replicas=2, max_constructor_retry_count=2).bind())
    message = serve.status().applications["default"].message
    assert "the index is empty" in message and "2 replicas that ran before keep serving" in message
    assert ids("Model") == before
    assert http.post("/").text == "1"


def test_another_graph_replaces_the_old_one_whole(http: httpx.Client, tmp_path: Path) -> None:
    class Front:
        def __init__(self, behind: Any) -> None:
            self.behind = behind

        async def __call__(self, request: Request) -> str:
            return "front of " + await self.behind.remote(request)

        def __del__(self) -> None:
            with (tmp_path / "gone").open("a") as file:
                print("front", file=file)

    front = serve.deployment(Front).bind(versioned("1").bind())
    serve.run(front)
    assert http.post("/").text == "front of 1"
    before = ids("Model")
    serve.run(versioned("1").bind())
    assert http.post("/").text == "1"
    until(lambda: lines(tmp_path / "gone") == ["front"])
    assert list(serve.status().applications["default"].deployments) == ["Model"]
    assert ids("Model") == before, "its own code and options are the same"
    serve.run(front)
    assert http.post("/").text == "front of 1"
    assert ids("Model") == before


def test_a_new_route_prefix_takes_the_place_of_the_old(http: httpx.Client) -> None:
    serve.run(versioned("1").bind(), route_prefix="/old")
    before = ids("Model")
    serve.run(versioned("1").bind(), route_prefix="/new")
    until(lambda: http.get("/-/routes").json() == {"/new": "default"})
    assert http.get("/old").status_code == 404
    assert http.get("/new").text == "1"
    assert ids("Model") == before
    serve.run(versioned("1").bind(), route_prefix=None)
    until(lambda: http.get("/-/routes").json() == {})
    assert serve.get_app_handle("default").pid.remote().result() == running("Model")[0].pid
