"""Returning to what ran before, with real processes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, DeploymentFailedError

from .conditions import deployment, ids, until
from .loads import under_load


def versioned(version: str, **options: Any) -> Any:
    class Model:
        async def __call__(self, request: Request) -> str:
            await request.body()
            return version

    return serve.deployment(Model).options(**options)


def test_a_rollback_after_a_failed_update_touches_no_replica(http: httpx.Client) -> None:
    class Model:
        def __init__(self) -> None:
            raise ValueError("broken release")

    serve.run(versioned("1", num_replicas=2).bind())
    before = ids("Model")
    with pytest.raises(DeploymentFailedError, match="broken release"):
        serve.run(serve.deployment(Model).options(num_replicas=2, max_constructor_retry_count=1).bind())
    status = serve.status().applications["default"]
    assert status.status == "DEPLOY_FAILED"
    assert "broken release" in status.message and "2 replicas that ran before keep serving" in status.message
    serve.rollback()
    assert serve.status().applications["default"].status == "RUNNING"
    assert ids("Model") == before
    assert http.post("/").text == "1"


async def test_a_rollback_rolls_without_a_dropped_request(http: httpx.Client, instance: driver.Client) -> None:
    await asyncio.to_thread(serve.run, versioned("1", num_replicas=2).bind())
    await asyncio.to_thread(serve.run, versioned("2", num_replicas=2).bind())
    answers = await under_load(instance.http_url or "", serve.rollback)
    assert {status for status, _ in answers} == {200}
    assert answers[-1][1] == "1"
    until(lambda: len(deployment("Model").replicas) == 2)


def test_a_rollback_brings_back_a_deployment_that_an_update_dropped(http: httpx.Client) -> None:
    class Front:
        def __init__(self, behind: Any) -> None:
            self.behind = behind

        async def __call__(self, request: Request) -> str:
            return "front of " + await self.behind.remote(request)

    serve.run(serve.deployment(Front).bind(versioned("1").bind()))
    serve.run(versioned("1").bind(), route_prefix="/other")
    assert http.get("/other").text == "1"
    serve.rollback()
    until(lambda: http.get("/").text == "front of 1")
    history = driver.find().history("default")
    assert [(d.number, d.restores, d.outcome) for d in history.deploys] == [
        (3, 1, "SUCCEEDED"),
        (2, None, "SUCCEEDED"),
        (1, None, "SUCCEEDED"),
    ]
    assert history.deploys[0].changes == "route_prefix /other → /; Front: new"


def test_without_an_earlier_deploy_there_is_nothing_to_return_to(http: httpx.Client) -> None:
    serve.run(versioned("1").bind())
    with pytest.raises(ConfigError, match="no deploy of application 'default' before number 1"):
        serve.rollback()
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        serve.rollback("defualt")
