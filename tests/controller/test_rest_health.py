"""What probes of Kubernetes get to hear at the REST port, and who else gets to hear anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.config.rest_token import rest_token
from headrace.config.spec import ApplicationStatus, DeploymentStatus
from headrace.controller.rest import RestApi
from headrace.controller.rest_guard import required_token
from headrace.controller.rest_health import CLUSTER_ANSWERS_WITHIN_S, serves

from .conftest import Instance, until
from .fakes import application, deployment

KUBELET = {"Host": "10.244.1.7:8265"}
"""A probe's request names the address of the pod."""

PARTS = ("/api/gcs_healthz", "/api/local_raylet_healthz", "/api/healthz")


@pytest.fixture
async def client(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = RestApi(instance.controller, "the-token").app
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8265") as made:
        yield made


def on_a_cluster(instance: Instance, health: dict[str, str | None]) -> None:
    """Has the engine answer as one on a Ray cluster does."""

    async def answer(part: str) -> str | None:
        return health[part]

    instance.engine.health = answer  # type: ignore[attr-defined]


async def test_on_one_machine_there_is_no_ray_that_could_be_healthy(client: httpx.AsyncClient) -> None:
    for path in PARTS:
        answer = await client.get(path, headers=KUBELET)
        assert answer.status_code == 503
        assert "there is no Ray here" in answer.text


async def test_a_healthy_cluster_is_a_success_as_ray_words_it(instance: Instance, client: httpx.AsyncClient) -> None:
    on_a_cluster(instance, {"gcs": None, "raylet": None})
    assert [(await client.get(path, headers=KUBELET)).text for path in PARTS] == [
        "success",
        "success",
        "raylet: success\ngcs: success",
    ]


async def test_the_part_that_fails_is_named(instance: Instance, client: httpx.AsyncClient) -> None:
    on_a_cluster(instance, {"gcs": "the GCS does not answer", "raylet": None})
    answers = [await client.get(path, headers=KUBELET) for path in PARTS]
    assert [(answer.status_code, answer.text) for answer in answers] == [
        (503, "the GCS does not answer"),
        (200, "success"),
        (503, "raylet: success\ngcs: the GCS does not answer"),
    ]


async def test_a_cluster_that_hangs_is_not_waited_for(instance: Instance, client: httpx.AsyncClient) -> None:
    async def hang(part: str) -> str | None:
        await asyncio.Event().wait()
        return None

    instance.engine.health = hang  # type: ignore[attr-defined]
    answer = await client.get("/api/gcs_healthz", headers=KUBELET)
    assert (answer.status_code, answer.text) == (503, f"no answer within {CLUSTER_ANSWERS_WITHIN_S:g} s")


async def test_a_pod_is_ready_once_its_applications_serve(instance: Instance, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/headrace/ready", headers=KUBELET)
    assert (answer.status_code, answer.text) == (503, "nothing is deployed yet")
    instance.controller.deploy([application(deployment())])
    answer = await client.get("/api/headrace/ready", headers=KUBELET)
    assert (answer.status_code, answer.text) == (503, "0 of 1 applications serve")
    await until(lambda: all(a.status == "RUNNING" for a in instance.controller.application_statuses()))
    answer = await client.get("/api/headrace/ready", headers=KUBELET)
    assert (answer.status_code, answer.text) == (200, "success")


def status(*deployments: tuple[int, dict[str, int]], app: str = "RUNNING") -> ApplicationStatus:
    """Deployments by their wanted number of replicas, and how many there are in which state."""
    return ApplicationStatus(
        name="app",
        status=app,
        message="",
        route_prefix="/",
        ingress="d0",
        last_deployed_time_s=0.0,
        config=None,
        declared=True,
        deployments=[
            DeploymentStatus(
                name=f"d{number}",
                status="HEALTHY",
                status_trigger="",
                message="",
                target_num_replicas=target,
                options={},
                replica_states=states,
            )
            for number, (target, states) in enumerate(deployments)
        ],
    )


def test_an_application_serves_while_it_is_updated() -> None:
    assert serves(status((2, {"RUNNING": 1, "STARTING": 1}), app="DEPLOYING"))


def test_an_application_whose_update_failed_serves_with_what_it_had() -> None:
    assert serves(status((1, {"RUNNING": 1}), app="DEPLOY_FAILED"))


def test_a_deployment_that_is_scaled_to_nothing_is_no_reason_not_to_serve() -> None:
    assert serves(status((1, {"RUNNING": 1}), (0, {})))


def test_an_application_does_not_serve_while_one_of_its_deployments_has_no_replica() -> None:
    assert not serves(status((1, {"RUNNING": 1}), (1, {"STARTING": 1})))
    assert not serves(status())


async def test_the_rest_of_the_api_needs_the_token_and_kuberays_header_carries_it(client: httpx.AsyncClient) -> None:
    url = "/api/serve/applications/"
    assert (await client.get(url, headers=KUBELET)).status_code == 401
    for header in ("Authorization", "x-ray-authorization"):
        assert (await client.get(url, headers={**KUBELET, header: "Bearer the-token"})).status_code == 200
        assert (await client.get(url, headers={**KUBELET, header: "Bearer another"})).status_code == 401


async def test_a_web_page_of_another_site_does_not_even_learn_of_health(client: httpx.AsyncClient) -> None:
    assert (await client.get("/-/healthz", headers={"Origin": "https://elsewhere.example"})).status_code == 403


def test_the_token_of_the_ray_cluster_is_the_tokens_default(tmp_path: Path) -> None:
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "rays"}
    assert required_token("0.0.0.0", tmp_path, ray) == "rays"
    assert required_token("0.0.0.0", tmp_path, {**ray, "HEADRACE_REST_TOKEN": "ours"}) == "ours"
    assert rest_token({**ray, "RAY_AUTH_MODE": "disabled"}) is None
    assert rest_token({}) is None
