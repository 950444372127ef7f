"""Replicas with vLLM in them that die, in whole or in part, and ones that block."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.llm.vllm.conftest import ENGINE_KWARGS
from tests.serve.conditions import deployment, ids, running, until

import headrace as serve
from headrace import client as driver

pytest.importorskip("vllm")
pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture
def http(environment: None) -> Iterator[httpx.Client]:
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    try:
        with httpx.Client(base_url=driver.find().http_url or "", timeout=60) as client:
            yield client
    finally:
        serve.shutdown()


def processes_of(pid: int) -> list[psutil.Process]:
    """All that a replica has started, and what that has."""
    return psutil.Process(pid).children(recursive=True)


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_replica_is_replaced_at_once_when_its_engine_core_was_killed_and_leaves_nothing_when_it_is_killed(
    http: httpx.Client, model: Path
) -> None:
    from headrace.llm import LLMConfig, LLMServer

    config = LLMConfig(
        model_loading_config={"model_id": "tiny", "model_source": str(model)},
        engine_kwargs=ENGINE_KWARGS,
        # None of the checks is waited for.
        deployment_config={"health_check_period_s": 60.0},
    )
    serve.run(LLMServer.bind(config))
    name = "LLMServer:tiny"
    [first] = running(name)
    of_first = processes_of(first.pid)
    core = next(process for process in of_first if process.children())

    request = {"model": "tiny", "prompt": "The wheel", "max_tokens": 500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=request) as response:
        events = response.iter_lines()
        assert "choices" in next(events)
        os.kill(core.pid, signal.SIGKILL)
        # The answer ends with an error, and not by a connection that breaks.
        assert [event for event in events if '"error"' in event]
    until(lambda: first.replica_id not in ids(name), seconds=10)
    until(lambda: all(ended(process) for process in of_first), seconds=10)

    # Another is on its way; it is killed as soon as it has processes of its own.
    def starting() -> list[Any]:
        return [replica for replica in deployment(name).replicas if replica.pid not in (None, first.pid)]

    until(lambda: starting() and processes_of(starting()[0].pid), seconds=120)
    second = starting()[0]
    of_second = processes_of(second.pid)
    os.kill(second.pid, signal.SIGKILL)
    until(lambda: all(ended(process) for process in of_second), seconds=20)


def test_a_class_of_the_users_may_hold_vllm_and_block_while_it_generates(http: httpx.Client, model: Path) -> None:
    @serve.deployment(health_check_period_s=0.5, health_check_timeout_s=1.0)
    class Writer:
        def __init__(self, model: str) -> None:
            from vllm import LLM

            self.llm = LLM(model, **ENGINE_KWARGS)

        async def __call__(self, request: Any) -> dict[str, Any]:
            from vllm import SamplingParams

            body = await request.json()
            params = SamplingParams(max_tokens=body["max_tokens"], ignore_eos=True, temperature=0)
            # Blocks the event loop: what people write.
            outputs = self.llm.generate([body["prompt"]] * body["times"], params, use_tqdm=False)
            return {"texts": [output.outputs[0].text for output in outputs]}

    serve.run(Writer.bind(str(model)))
    [replica] = running("Writer")

    answers = [
        http.post("/", json={"prompt": "The wheel", "max_tokens": 480, "times": 48}).raise_for_status()
        for _ in range(2)
    ]

    assert all(len(answer.json()["texts"]) == 48 for answer in answers)
    assert ids("Writer") == {replica.replica_id}
