"""Something outside says how many replicas there are, over Ray Serve's endpoint."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError

from .conditions import deployment, ids, until


@serve.deployment
class Light:
    async def __call__(self, request: Request) -> str:
        return "here"


def scale(instance: driver.Client, body: Any, app: str = "default", name: str = "Light") -> httpx.Response:
    address = f"{instance.rest_url}/api/v1/applications/{app}/deployments/{name}/scale"
    return httpx.post(address, json=body)


def settled(replicas: int) -> bool:
    status = deployment("Light")
    return status.status == "HEALTHY" and status.replica_states == ({"RUNNING": replicas} if replicas else {})


def test_a_number_from_outside_is_brought_about(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.bind(), external_scaler_enabled=True)
    answer = scale(instance, {"target_num_replicas": 3})
    assert answer.status_code == 200 and answer.json()["message"]
    until(lambda: settled(3))
    assert deployment("Light").status_trigger == "UPSCALE_COMPLETED"
    assert scale(instance, {"target_num_replicas": 1}).status_code == 200
    until(lambda: settled(1))
    details = httpx.get(f"{instance.rest_url}/api/serve/applications/").json()["applications"]["default"]
    assert details["external_scaler_enabled"] is True


def test_a_request_waits_at_none_until_there_is_one(http: httpx.Client, instance: driver.Client) -> None:
    handle = serve.run(Light.bind(), external_scaler_enabled=True)
    assert scale(instance, {"target_num_replicas": 0}).status_code == 200
    until(lambda: settled(0))
    response = handle.remote(None)
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.2)
    assert scale(instance, {"target_num_replicas": 1}).status_code == 200
    assert response.result(timeout_s=20) == "here"


def test_a_number_from_outside_survives_a_killed_controller(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.bind(), external_scaler_enabled=True)
    assert scale(instance, {"target_num_replicas": 2}).status_code == 200
    os.kill(instance.status().controller_pid, signal.SIGKILL)
    until(lambda: settled(2))
    replicas, controller = ids("Light"), instance.status().controller_pid
    os.kill(controller, signal.SIGKILL)
    until(lambda: instance.status().controller_pid != controller)
    until(lambda: settled(2))
    assert deployment("Light").target_num_replicas == 2 and ids("Light") == replicas
    assert scale(instance, {"target_num_replicas": 3}).status_code == 200
    until(lambda: settled(3))


def test_a_deploy_keeps_the_number_unless_it_asks_for_another(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.bind(), external_scaler_enabled=True)
    scale(instance, {"target_num_replicas": 3})
    until(lambda: settled(3))
    serve.run(Light.options(max_ongoing_requests=7).bind(), external_scaler_enabled=True)
    assert deployment("Light").target_num_replicas == 3
    serve.run(Light.options(num_replicas=2).bind(), external_scaler_enabled=True)
    until(lambda: settled(2))
    scale(instance, {"target_num_replicas": 3})
    until(lambda: settled(3))
    serve.run(Light.options(num_replicas=2).bind())
    until(lambda: settled(2))
    assert scale(instance, {"target_num_replicas": 3}).status_code == 412


def test_who_has_not_asked_for_a_scaler_is_left_alone(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.bind())
    answer = scale(instance, {"target_num_replicas": 2})
    assert answer.status_code == 412 and "external_scaler_enabled" in answer.json()["error"]
    assert deployment("Light").target_num_replicas == 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"target_num_replicas": -1}, 400, "must be a whole number from 0 to 10000, not -1"),
        ({"target_num_replicas": 1.5}, 400, "must be a whole number from 0 to 10000, not 1.5"),
        ({"target_num_replicas": True}, 400, "must be a whole number from 0 to 10000, not true"),
        ({"target_num_replicas": 10**30}, 400, "must be a whole number from 0 to 10000, not 1000"),
        ({"target_num_replica": 1}, 400, "'target_num_replica'"),
        ([], 400, "the body must be"),
        (None, 400, "the body is not JSON"),
    ],
)
def test_a_wrong_number_is_refused(
    http: httpx.Client, instance: driver.Client, body: Any, status: int, said: str
) -> None:
    serve.run(Light.bind(), external_scaler_enabled=True)
    answer = scale(instance, body)
    assert answer.status_code == status and said in answer.json()["error"]


def test_what_is_not_there_cannot_be_scaled(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Light.bind(), external_scaler_enabled=True)
    answer = scale(instance, {"target_num_replicas": 1}, app="defualt")
    assert answer.status_code == 404 and "did you mean 'default'?" in answer.json()["error"]
    answer = scale(instance, {"target_num_replicas": 1}, name="Lihgt")
    assert answer.status_code == 404 and "did you mean 'Light'?" in answer.json()["error"]


def test_an_external_scaler_excludes_autoscaling() -> None:
    with pytest.raises(ConfigError) as caught:
        serve.run(Light.options(num_replicas="auto").bind(), external_scaler_enabled=True)
    assert "external_scaler_enabled: excludes the autoscaling_config of deployment 'Light'" in str(caught.value)
