"""Prompts that a prefill deployment was to compute, and that died over them."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.conditions import lines, until

import headrace as serve
from headrace import client as driver
from headrace.llm import EngineRequest, LLMConfig
from headrace.llm.remote_prefill import RemotePrefill
from headrace.llm.server import LLMServer


@serve.deployment
class Hanging:
    """Never answers, and its second replica never starts."""

    def __init__(self, notes: str) -> None:
        self.notes = Path(notes)
        if self.notes.exists():
            signal.pause()
        self.note("started")

    def note(self, what: str) -> None:
        with self.notes.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    async def respond(self, request: EngineRequest) -> Any:
        self.note("asked")
        signal.pause()
        yield b""


class Decode(LLMServer):
    async def __init__(self, llm_config: LLMConfig, prefill: Any) -> None:  # type: ignore[misc]
        await super().__init__(llm_config)
        self.engine = RemotePrefill(self.engine, llm_config.model_id, prefill)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("http")
def test_a_prompt_whose_prefill_died_is_computed_by_decode_though_no_other_replica_starts(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    config = LLMConfig(model="m", llm_engine="simulated")
    serve.run(Decode.bind(config, prefill=Hanging.bind(str(notes))))
    url = driver.find().http_url
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 3})

    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def asked() -> bool:
            return any(line.startswith("asked") for line in lines(notes))

        while not asked():  # until decode has heard of prefill's replica, it computes prompts itself
            answer = pool.submit(httpx.post, f"{url}/v1/completions", content=body, timeout=30)
            until(lambda answer=answer: answer.done() or asked())  # type: ignore[misc]
        os.kill(int(lines(notes)[0].split()[1]), signal.SIGKILL)
        assert answer.result(30).status_code == 200
    assert httpx.post(f"{url}/v1/completions", content=body, timeout=20).status_code == 200
