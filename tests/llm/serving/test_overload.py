"""A model that is asked more than it can answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.serve.conditions import until

import headrace as serve
from headrace.llm import LLMConfig, LLMRequestError, LLMServer, build_openai_app
from headrace.llm.engines.protocol import ModelInfo
from headrace.llm.server_options import most_under_way

HELLO = [{"role": "user", "content": "hello"}]
ENDLESS = {"time_per_output_token_s": 0.05, "answer_tokens": 10_000}


def config(**settings: Any) -> LLMConfig:
    return LLMConfig(**{"model": "m", "llm_engine": "simulated", **settings})


def info(places: int | None) -> ModelInfo:
    return ModelInfo("m", 1000, frozenset(), None, "simulated", places)


@pytest.mark.parametrize("through_a_front", [False, True])
def test_what_would_wait_too_long_is_refused_at_once(http: httpx.Client, through_a_front: bool) -> None:
    one = config(**ENDLESS, max_num_seqs=2, max_waiting_requests=3)
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    model = serve.get_deployment_handle("LLMServer:m")
    held = [model.options(stream=True).chat.remote({"messages": HELLO, "stream": True}) for _ in range(5)]
    until(lambda: model.load.remote().result().waiting == 3)
    request = {"model": "m", "messages": HELLO, "max_tokens": 1}
    refused = http.post("/v1/chat/completions", json=request)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.json()["error"]["type"] == "service_unavailable_error"
    # Whoever looks after the model still gets through.
    assert http.get("/health").status_code == 200
    assert http.get("/v1/models").status_code == 200
    with pytest.raises(LLMRequestError, match="overloaded") as raised:
        model.chat.remote({"messages": HELLO}).result()
    assert raised.value.status == 503
    for one_stream in held:
        one_stream.cancel()
    until(lambda: http.post("/v1/chat/completions", json=request).status_code == 200)


def test_requests_of_batches_wait_where_live_ones_are_refused(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(**ENDLESS, max_num_seqs=1, max_waiting_requests=0)))
    model = serve.get_deployment_handle("LLMServer:m")
    held = model.options(stream=True).chat.remote({"messages": HELLO, "stream": True})
    until(lambda: model.load.remote().result().running == 1)
    request = {"model": "m", "messages": HELLO, "max_tokens": 1}

    async def ask_behind() -> httpx.Response:
        async with httpx.AsyncClient(base_url=http.base_url, timeout=30) as client:
            headers = {"x-headrace-priority": "1"}
            behind = asyncio.ensure_future(client.post("/v1/chat/completions", json=request, headers=headers))
            assert (await client.post("/v1/chat/completions", json=request)).status_code == 503
            assert not behind.done()
            held.cancel()
            return await behind

    assert asyncio.run(ask_behind()).status_code == 200


def test_a_request_that_one_replica_refuses_goes_to_one_with_room(http: httpx.Client) -> None:
    one = config(**ENDLESS, max_num_seqs=1, max_waiting_requests=0, deployment_config={"num_replicas": 2})
    serve.run(build_openai_app({"llm_configs": [one]}))
    model = serve.get_deployment_handle("LLMServer:m")
    # The front knows nothing of this one.
    held = model.options(stream=True).chat.remote({"messages": HELLO, "stream": True})
    next(iter(held))
    request = {"model": "m", "messages": HELLO, "max_tokens": 1}
    assert [http.post("/v1/chat/completions", json=request).status_code for _ in range(20)] == [200] * 20
    held.cancel()


def test_the_bound_follows_from_what_the_engine_generates_at_a_time() -> None:
    assert most_under_way(config(), info(256)) == 256 + 1024
    assert most_under_way(config(), info(4)) == 4 + 256
    assert most_under_way(config(max_num_seqs=100), info(None)) == 100 + 400
    assert most_under_way(config(max_waiting_requests=7), info(4)) == 11
    assert most_under_way(config(max_waiting_requests=-1), info(4)) is None
