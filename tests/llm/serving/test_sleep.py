"""Models that are put to sleep and woken up."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace.llm import LLMConfig, LLMServer, build_openai_app

HELLO = [{"role": "user", "content": "hello"}]


def config(model: str = "m", **settings: Any) -> LLMConfig:
    return LLMConfig(**{"model": model, "llm_engine": "simulated", **settings})


def ask(http: httpx.Client, model: str = "m") -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": model, "messages": HELLO, "max_tokens": 2})


@pytest.mark.parametrize("through_a_front", [False, True])
def test_a_model_sleeps_and_wakes_over_http_where_that_is_switched_on(
    http: httpx.Client, through_a_front: bool
) -> None:
    one = config(sleep_endpoints=True)
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    assert http.get("/is_sleeping").json() == {"is_sleeping": False}
    assert http.post("/sleep?level=1").json() == {"is_sleeping": True}
    assert http.get("/is_sleeping").json() == {"is_sleeping": True}
    assert http.get("/health").status_code == 503
    refused = ask(http)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "model_asleep"
    assert http.post("/wake_up").json() == {"is_sleeping": False}
    assert http.get("/health").status_code == 200
    assert ask(http).status_code == 200


@pytest.mark.parametrize("through_a_front", [False, True])
def test_nobody_can_put_a_model_to_sleep_over_http_unless_that_is_switched_on(
    http: httpx.Client, through_a_front: bool
) -> None:
    serve.run(build_openai_app({"llm_configs": [config()]}) if through_a_front else LLMServer.bind(config()))
    for method, path in (("POST", "/sleep"), ("POST", "/wake_up"), ("GET", "/is_sleeping")):
        assert http.request(method, path).status_code == 404


def test_of_several_models_the_request_says_which_one_sleeps(http: httpx.Client) -> None:
    configs = [config("one", sleep_endpoints=True), config("two", sleep_endpoints=True), config("three")]
    serve.run(build_openai_app({"llm_configs": configs}))
    assert http.post("/sleep").status_code == 400
    assert http.post("/sleep?model=three").status_code == 404
    assert http.post("/sleep?model=two").status_code == 200
    assert ask(http, "two").status_code == 503
    assert ask(http, "one").status_code == 200


def test_a_wrong_request_to_sleep_says_what_is_right(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(sleep_endpoints=True)))
    assert "must be 1 or 2" in http.post("/sleep?level=3").json()["error"]["message"]
    assert http.get("/sleep").status_code == 405
    assert http.get("/is_sleeping").json() == {"is_sleeping": False}


def test_offline_requests_wait_until_the_model_wakes_up(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(sleep_endpoints=True)))

    async def run() -> int:
        async with httpx.AsyncClient(base_url=http.base_url, timeout=30) as client:
            await client.post("/sleep")
            request = {"model": "m", "messages": HELLO, "max_tokens": 2}
            headers = {"x-headrace-priority": "1"}
            behind = asyncio.ensure_future(client.post("/v1/chat/completions", json=request, headers=headers))
            assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
            assert not behind.done()
            await client.post("/wake_up")
            return (await behind).status_code

    assert asyncio.run(run()) == 200


@pytest.mark.parametrize("through_a_front", [False, True])
def test_all_replicas_of_a_model_sleep_and_wake_together(http: httpx.Client, through_a_front: bool) -> None:
    one = config(sleep_endpoints=True, deployment_config={"num_replicas": 3})
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    assert http.post("/sleep").json() == {"is_sleeping": True}
    assert {ask(http).status_code for _ in range(20)} == {503}
    assert http.post("/wake_up").json() == {"is_sleeping": False}
    assert {ask(http).status_code for _ in range(20)} == {200}


def test_a_model_without_a_replica_cannot_be_put_to_sleep(http: httpx.Client) -> None:
    one = config(sleep_endpoints=True, deployment_config={"autoscaling_config": {"min_replicas": 0}})
    serve.run(build_openai_app({"llm_configs": [one]}))
    assert http.post("/sleep").status_code == 503
