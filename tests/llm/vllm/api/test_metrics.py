"""What a scrape tells of a model on vLLM."""

from __future__ import annotations

import httpx
import pytest
from tests.llm.vllm.scraped import series, total

pytest.importorskip("vllm")
pytestmark = pytest.mark.full

HELLO = [{"role": "user", "content": "hello there, how are you today? " * 8}]


def test_tokens_are_counted_without_the_clients_asking_for_usage(api: str) -> None:
    names = ("prompt", "generated", "cached_prompt")
    request = {"model": "chat", "messages": HELLO, "max_tokens": 7, "ignore_eos": True}
    with httpx.Client(base_url=api, timeout=60) as http:
        told = http.post("/v1/chat/completions", json=request).json()["usage"]
        before = [total(api, f"ray_serve_llm_{name}_tokens_total", adapter="") for name in names]
        with http.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as response:
            assert b'"usage"' not in response.read()
    after = [total(api, f"ray_serve_llm_{name}_tokens_total", adapter="") for name in names]
    prompt, generated, cached = (new - old for old, new in zip(before, after, strict=True))
    assert (prompt, generated) == (told["prompt_tokens"], 7)
    assert 0 < cached < prompt


def test_the_prompt_of_several_choices_is_counted_once(api: str) -> None:
    before = [total(api, f"ray_serve_llm_{name}_tokens_total") for name in ("prompt", "generated")]
    request = {"model": "chat", "prompt": ["one two three", "four"], "n": 3, "max_tokens": 4, "ignore_eos": True}
    told = httpx.post(f"{api}/v1/completions", json=request, timeout=60).json()["usage"]
    after = [total(api, f"ray_serve_llm_{name}_tokens_total") for name in ("prompt", "generated")]
    assert [new - old for old, new in zip(before, after, strict=True)] == [told["prompt_tokens"], 2 * 3 * 4]


def test_vllms_own_metrics_are_exported_with_the_replica_that_they_are_of(api: str) -> None:
    httpx.post(f"{api}/v1/completions", json={"model": "chat", "prompt": "x", "max_tokens": 2}, timeout=60)
    found = series(api, "vllm:generation_tokens_total", model_name="chat")
    assert found
    assert all(labels["replica"].startswith("default#LLMServer:chat#") for labels, _ in found)
    assert series(api, "vllm:time_to_first_token_seconds_count", model_name="chat")
