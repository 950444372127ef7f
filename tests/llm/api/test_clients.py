"""What the real clients of OpenAI and Anthropic make of the API's answers and errors."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest
from tests.serve.conditions import running

from headrace import client as driver
from headrace.llm import build_openai_app
from headrace.llm.api import hash_api_key

from .applications import behind_front, model
from .conftest import MODEL

Run = Callable[[Any], str]

HELLO: Any = [{"role": "user", "content": "Hello"}]
KEYS = [
    {"key": "key-free", "name": "free"},
    {"key": "key-twice", "name": "twice", "requests_per_minute": 2},
    {"key": "key-tokens", "name": "tokens", "tokens_per_minute": 100},
    {"key": "key-shared", "name": "shared", "requests_per_minute": 10},
]


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


def test_answers_and_streams_arrive_sync_and_async(run: Run) -> None:
    url = run(behind_front(model()))
    sync = client(url)
    whole = sync.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9, seed=1)
    assert whole.usage is not None and whole.usage.completion_tokens == 9
    text = whole.choices[0].message.content
    stream = sync.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=9, seed=1, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text

    async def in_async() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            pieces = await client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=9, seed=1, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in pieces]
            assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 9
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])

    assert asyncio.run(in_async()) == text
    assert sync.models.retrieve(MODEL).id == MODEL
    assert len(sync.embeddings.create(model=MODEL, input=["a", "b"]).data) == 2
    assert sync.completions.create(model=MODEL, prompt="a", max_tokens=3).choices[0].text


def test_what_a_model_serves_is_known_at_once_and_after_an_update(run: Run) -> None:
    url = run(behind_front(model(max_model_len=1000)))
    assert client(url).models.retrieve(MODEL).model_dump()["max_model_len"] == 1000
    run(behind_front(model(max_model_len=2000)))
    assert client(url).models.retrieve(MODEL).model_dump()["max_model_len"] == 2000


def test_anthropics_client_is_answered_whole_and_in_a_stream(run: Run) -> None:
    url = run(behind_front(model(), [{"key": "key-counted", "tokens_per_minute": 10_000}]))
    claude = anthropic.Anthropic(base_url=url, api_key="key-counted", max_retries=0)
    whole = claude.messages.create(model=MODEL, max_tokens=7, messages=HELLO)
    assert whole.usage.output_tokens == 7
    with claude.messages.stream(model=MODEL, max_tokens=7, messages=HELLO) as stream:
        assert stream.get_final_message().usage.output_tokens == 7
    assert claude.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens == whole.usage.input_tokens


def test_errors_are_the_clients_own_exceptions(run: Run) -> None:
    url = run(behind_front(model()))
    with pytest.raises(openai.NotFoundError) as missing:
        client(url).chat.completions.create(model="org/simm", messages=HELLO)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="does not answer /v1/score"):
        client(url).post("/score", cast_to=object, body={"model": MODEL, "text_1": "a", "text_2": "b"})
    with pytest.raises(openai.BadRequestError) as wrong:
        client(url).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=100_000)
    assert (wrong.value.code, wrong.value.type) == ("context_length_exceeded", "invalid_request_error")
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0).messages.create(
            model="nope", max_tokens=5, messages=HELLO
        )


def test_without_a_key_nobody_is_served_and_health_is_told_all_the_same(run: Run) -> None:
    url = run(behind_front(model(), KEYS))
    with pytest.raises(openai.AuthenticationError) as refused:
        client(url, "guess").chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client(url, "guess").models.list()
    assert client(url, "key-free").chat.completions.create(model=MODEL, messages=HELLO).choices
    assert httpx.get(f"{url}/health").status_code == 200
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=url, api_key="guess", max_retries=0).models.list()
    assert anthropic.Anthropic(base_url=url, api_key="key-free").models.list().data[0].id == MODEL


def test_build_openai_app_takes_keys(run: Run) -> None:
    config = {"model": "m", "llm_engine": "simulated"}
    url = run(build_openai_app({"llm_configs": [config], "api_keys": [*KEYS, hash_api_key("key-hashed")]}))
    assert client(url, "key-hashed").models.list().data[0].id == "m"
    limited = client(url, "key-twice").chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert limited.headers["x-ratelimit-remaining-requests"] == "1"
    with pytest.raises(openai.AuthenticationError):
        client(url, "guess").files.list()
    status = httpx.get(f"{driver.find().rest_url}/api/serve/applications/").text
    assert "key-" not in status and hash_api_key("key-hashed").removeprefix("sha256:") not in status


def test_limits_of_requests_count_over_all_ingress_replicas(run: Run) -> None:
    url = run(behind_front(model(), KEYS, ingress_replicas=2))
    limited = client(url, "key-twice")
    first = limited.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    limited.chat.completions.create(model=MODEL, messages=HELLO)
    with pytest.raises(openai.RateLimitError) as refused:
        limited.chat.completions.create(model=MODEL, messages=HELLO)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30


def test_requests_at_the_same_time_do_not_slip_through_a_limit(run: Run) -> None:
    url = run(behind_front(model(), KEYS, ingress_replicas=2))

    def ask(_: int) -> bool:
        try:
            client(url, "key-shared").chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
        except openai.RateLimitError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        admitted = sum(pool.map(ask, range(24)))
    assert admitted in (10, 11)  # one flows in every six seconds


def test_limits_of_tokens_go_by_what_answers_used(run: Run) -> None:
    url = run(behind_front(model(), KEYS))
    limited = client(url, "key-tokens")
    stream = limited.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=60, stream=True)
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)  # the usage that was asked for is not shown
    left = limited.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert int(left.headers["x-ratelimit-remaining-tokens"]) < 40
    with pytest.raises(openai.RateLimitError):
        limited.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=60)


async def test_an_overloaded_model_is_a_rate_limit_where_so_configured(run: Run) -> None:
    limits = {"max_ongoing_requests": 1, "max_queued_requests": 1}
    config = {"backpressure_config": {"status_code": 429, "retry_after_s": 7}}
    url = run(behind_front(model(options={**limits, **config}, time_per_output_token_s=0.05, answer_tokens=10_000)))
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        begun = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        asking = [asyncio.ensure_future(client.chat.completions.create(model=MODEL, messages=HELLO)) for _ in range(2)]
        (refused,), (waiting,) = await asyncio.wait(asking, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        error = refused.exception()
        assert isinstance(error, openai.RateLimitError)
        assert (error.code, error.response.headers["retry-after"]) == ("overloaded", "7")
        async with httpx.AsyncClient(timeout=30) as http:
            assert (await http.get(f"{url}/health")).status_code == 200  # busy is not unhealthy
        waiting.cancel()
        await begun.response.aclose()


def test_a_model_that_dies_in_a_stream_is_an_error_of_the_stream(run: Run) -> None:
    url = run(behind_front(model(time_per_output_token_s=0.05, answer_tokens=10_000)))
    stream = client(url).chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    next(stream)
    (replica,) = running("Model", "llm")
    os.kill(replica.pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="the replica that worked on this request is gone"):
        for _ in stream:
            pass


def test_the_responses_api_tells_of_a_broken_stream_too(run: Run) -> None:
    url = run(behind_front(model(time_per_output_token_s=0.05, answer_tokens=10_000)))
    hurried = client(url).with_options(default_headers={"x-request-timeout-ms": "700"})
    stream = hurried.responses.create(model=MODEL, input="Hello", stream=True)
    *_, last = stream
    assert last.type == "error"
    assert (last.code, last.message) == ("timeout", "the request was not answered before its deadline")


def test_a_deadline_is_told_in_the_clients_terms(run: Run) -> None:
    url = run(behind_front(model(time_to_first_token_s=1e-3, time_per_output_token_s=0.05, answer_tokens=10_000)))
    hurried = client(url).with_options(default_headers={"x-request-timeout-ms": "700"})
    with pytest.raises(openai.APIStatusError) as late:
        hurried.chat.completions.create(model=MODEL, messages=HELLO)
    assert (late.value.status_code, late.value.code) == (408, "timeout")
    stream = hurried.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="not answered before its deadline"):
        for _ in stream:
            pass
