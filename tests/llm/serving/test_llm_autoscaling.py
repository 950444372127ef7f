"""Models that scale by what their engines tell, up and down again, and to nothing and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.serve.conditions import deployment, ids, until

import headrace as serve
from headrace.llm import LLMConfig, build_openai_app

HELLO = [{"role": "user", "content": "hello"}]
QUICK = {
    "metrics_interval_s": 0.1,
    "look_back_period_s": 0.5,
    "upscale_delay_s": 0.1,
    "downscale_delay_s": 0.5,
}


def run(scaling: dict[str, Any], **settings: Any) -> None:
    options = {"autoscaling_config": {**QUICK, **scaling}}
    one = LLMConfig(**{"model": "m", "llm_engine": "simulated", "deployment_config": options, **settings})
    serve.run(build_openai_app({"llm_configs": [one], "batch_config": None}))


@contextmanager
def load(http: httpx.Client, clients: int, tokens: int) -> Iterator[Callable[[], list[int]]]:
    """Clients that ask for streamed answers, one after another. Gives what tells the statuses so far."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        request = {"model": "m", "messages": HELLO, "max_tokens": tokens, "stream": True}
        with httpx.Client(base_url=http.base_url, timeout=30) as client:
            while not stop.is_set():
                with client.stream("POST", "/v1/chat/completions", json=request) as response:
                    whole = response.read().endswith(b"data: [DONE]\n\n")
                statuses.append(response.status_code if whole else 0)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("metric", "target"), [("kv_cache_use", 0.6), ("ttft_p95_s", 0.2), ("waiting", 2)])
def test_a_model_gets_replicas_while_it_is_overloaded_and_loses_them_again(
    http: httpx.Client, metric: str, target: float
) -> None:
    # Two answers at a time take 0.25 s each, so that of eight clients' requests some wait for three others.
    run(
        {"max_replicas": 2, "target_metrics": {metric: target}},
        max_num_seqs=2,
        time_to_first_token_s=0.05,
        time_per_output_token_s=0.02,
    )
    assert len(ids("LLMServer:m")) == 1
    with load(http, clients=8, tokens=11) as statuses:
        until(lambda: len(ids("LLMServer:m")) == 2)
        seen = len(statuses())
        until(lambda: len(statuses()) > seen + 8)
    assert set(statuses()) == {200}
    until(lambda: len(ids("LLMServer:m")) == 1, 30)


def test_a_model_that_scaled_to_zero_holds_the_first_request_and_answers_it(http: httpx.Client) -> None:
    run({"min_replicas": 0, "max_replicas": 1, "downscale_to_zero_delay_s": 0.3}, loading_s=0.5)
    request = {"model": "m", "messages": HELLO, "max_tokens": 3}
    for _ in range(2):
        until(lambda: not deployment("LLMServer:m").replicas)
        assert http.get("/health").status_code == 200
        answer = http.post("/v1/chat/completions", json=request)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 3
