"""What a model tells of its answers at a scrape, with real processes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.conditions import until

import headrace as serve
from headrace.llm import LLMConfig, LLMServer, build_openai_app

HELLO = [{"role": "user", "content": "hello"}]
Samples = dict[str, list[tuple[dict[str, str], float]]]


def config(**settings: Any) -> LLMConfig:
    return LLMConfig(**{"model": "m", "llm_engine": "simulated", **settings})


def samples(http: httpx.Client) -> Samples:
    found: Samples = defaultdict(list)
    for family in text_string_to_metric_families(http.get("/-/metrics").text):
        for sample in family.samples:
            found[sample.name].append((sample.labels, sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(value for have, value in found[f"ray_serve_llm_{name}"] if labels.items() <= have.items())


def stream(http: httpx.Client, **fields: Any) -> None:
    request = {"model": "m", "messages": HELLO, "stream": True, **fields}
    with http.stream("POST", "/v1/chat/completions", json=request) as response:
        assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("through_a_front", [False, True])
def test_answers_are_counted_and_timed(http: httpx.Client, through_a_front: bool) -> None:
    one = config(time_to_first_token_s=0.2, time_per_output_token_s=0.02)
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    stream(http, max_tokens=11)
    assert http.post("/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 5}).status_code == 200
    assert http.post("/v1/chat/completions", json={"model": "m", "messages": HELLO, "n": 0}).status_code == 400
    found = samples(http)
    assert total(found, "generated_tokens_total", model="m", adapter="") == 16
    assert total(found, "prompt_tokens_total", model="m") > 0
    assert total(found, "requests_total", outcome="finished", path="/v1/chat/completions") == 1
    assert total(found, "requests_total", outcome="finished", path="/v1/completions") == 1
    assert total(found, "requests_total", outcome="invalid") == 1
    assert total(found, "time_to_first_token_seconds_count") == 1
    assert 0.2 <= total(found, "time_to_first_token_seconds_sum") < 5
    assert total(found, "time_per_output_token_seconds_count") == 1
    assert 0.015 < total(found, "time_per_output_token_seconds_sum") < 0.5
    assert total(found, "request_latency_seconds_count") == 2
    assert 0.4 < total(found, "request_latency_seconds_sum") < 10


@pytest.mark.parametrize("through_a_front", [False, True])
def test_the_serving_layers_own_share_is_told_apart(http: httpx.Client, through_a_front: bool) -> None:
    one = config(time_to_first_token_s=0.5, time_per_output_token_s=0.02)
    serve.run(build_openai_app({"llm_configs": [one]}) if through_a_front else LLMServer.bind(one))
    stream(http, max_tokens=20)
    found = samples(http)
    for name in ("first_token", "per_output_token"):
        assert total(found, f"serving_overhead_{name}_seconds_count", model="m") == 1
    # The engine's half second is not in it.
    assert 0 < total(found, "serving_overhead_first_token_seconds_sum") < 0.45
    assert 0 <= total(found, "serving_overhead_per_output_token_seconds_sum") < 0.02
    (labels, _), *_ = found["ray_serve_llm_serving_overhead_first_token_seconds_count"]
    assert labels["deployment"] == ("LLMIngress" if through_a_front else "LLMServer:m")


def test_a_client_that_leaves_is_told_apart_and_its_tokens_are_counted(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(time_per_output_token_s=0.05, answer_tokens=10_000)))
    request = {"model": "m", "messages": HELLO, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=request) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: {")
        assert total(samples(http), "requests_running", model="m") == 1
    until(lambda: total(samples(http), "requests_total", outcome="cancelled") == 1)
    found = samples(http)
    assert 1 <= total(found, "generated_tokens_total") < 10_000
    assert total(found, "request_latency_seconds_count") == 0
    assert total(found, "requests_running") == 0


def test_series_of_replicas_are_kept_apart(http: httpx.Client) -> None:
    serve.run(build_openai_app({"llm_configs": [config(deployment_config={"num_replicas": 2})]}))
    for _ in range(20):
        stream(http, max_tokens=2)
    found = samples(http)
    replicas = {labels["replica"] for labels, _ in found["ray_serve_llm_generated_tokens_total"]}
    assert len(replicas) == 2
    assert total(found, "generated_tokens_total") == 40


def test_the_load_of_an_engine_is_told(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config(max_num_seqs=2, time_per_output_token_s=0.05, answer_tokens=10_000)))
    handle = serve.get_deployment_handle("LLMServer:m").options(stream=True)
    streams = [handle.chat.remote({"messages": HELLO, "stream": True}) for _ in range(5)]

    def seen(name: str, value: float) -> Callable[[], bool]:
        return lambda: total(samples(http), name, model="m") == value

    until(seen("requests_running", 2))
    until(seen("requests_waiting", 3))
    assert total(samples(http), "kv_cache_use", model="m") == 1
    for one in streams:
        one.cancel()
    until(seen("requests_running", 0))
    assert not any(math.isnan(value) for _, value in samples(http)["ray_serve_llm_kv_cache_use"])


def test_adapters_are_told_apart(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "danish").mkdir()
    (tmp_path / "danish" / "adapter_config.json").write_text("{}")
    one = config(lora_config={"dynamic_lora_loading_path": str(tmp_path), "max_num_adapters_per_replica": 1})
    serve.run(build_openai_app({"llm_configs": [one]}))
    stream(http, max_tokens=3)
    stream(http, max_tokens=4, model="m:danish")
    found = samples(http)
    assert total(found, "generated_tokens_total", model="m", adapter="") == 3
    assert total(found, "generated_tokens_total", model="m", adapter="danish") == 4
    assert total(found, "serving_overhead_first_token_seconds_count", model="m", adapter="danish") == 1


def test_offline_requests_are_in_no_latency(http: httpx.Client) -> None:
    serve.run(LLMServer.bind(config()))
    http.headers["x-headrace-priority"] = "1"
    stream(http, max_tokens=3)
    found = samples(http)
    assert total(found, "generated_tokens_total") == 3
    for name in ("time_to_first_token", "request_latency", "serving_overhead_first_token"):
        assert total(found, f"{name}_seconds_count") == 0
