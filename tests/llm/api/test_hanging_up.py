"""Clients that leave: their answers are not generated on, and what had not begun never does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve.conditions import lines

import headrace as serve
from headrace.llm import LLMServer
from headrace.llm.engines.protocol import EngineLoad

from .applications import behind_front, model
from .conftest import MODEL, simulated_config

Run = Callable[[Any], str]

SLOW = {"time_per_output_token_s": 0.01, "answer_tokens": 30_000}


def body(stream: bool) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline, "not within 20 s"


def load(handle: Any) -> Callable[[], Awaitable[EngineLoad]]:
    async def ask() -> EngineLoad:
        current: EngineLoad = await handle.load.remote()
        return current

    return ask


@pytest.fixture(params=["behind a front", "alone"])
def started(request: pytest.FixtureRequest, run: Run) -> tuple[str, Any]:
    """The address of a model that generates two answers at a time, slowly, and its handle."""
    if request.param == "alone":
        config = simulated_config(max_num_seqs=2, **SLOW)
        app = LLMServer.bind(config)
        url = run(app)
        return url, serve.get_app_handle("llm")
    url = run(behind_front(model(max_num_seqs=2, **SLOW)))
    return url, serve.get_deployment_handle("Model", "llm")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_whose_client_leaves_is_generated_no_further(started: tuple[str, Any], stream: bool) -> None:
    url, handle = started
    ask = load(handle)
    async with httpx.AsyncClient(timeout=60) as client:

        async def talk() -> None:
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body(stream)) as response:
                async for _ in response.aiter_bytes():
                    pass

        talking = [asyncio.ensure_future(talk()) for _ in range(3)]

        async def busy() -> bool:
            current = await ask()
            return (current.running, current.waiting) == (2, 1)

        async def idle() -> bool:
            current = await ask()
            return (current.running, current.waiting) == (0, 0)

        await until(busy)
        for task in talking:
            task.cancel()
        await asyncio.wait(talking)
        await until(idle)


async def test_a_request_that_waits_for_a_replica_never_begins_once_its_client_has_left(
    run: Run, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    url = run(behind_front(model(notes, {"max_ongoing_requests": 1, "max_queued_requests": 5}, **SLOW)))
    async with httpx.AsyncClient(timeout=60) as client:

        def ask(name: str, **headers: str) -> Any:
            headers = {"x-request-id": name, **{key.replace("_", "-"): value for key, value in headers.items()}}
            return client.stream("POST", f"{url}/v1/chat/completions", json=body(True), headers=headers)

        async def status_of(name: str, **headers: str) -> int:
            async with ask(name, **headers) as response:
                await response.aread()
                status: int = response.status_code
                return status

        async def has_room() -> bool:
            return await status_of("probe", x_request_timeout_ms="100") == 408

        async with ask("first") as first:
            pieces = first.aiter_bytes()
            await anext(pieces)
            asking = [asyncio.ensure_future(status_of(f"second-{i}")) for i in range(6)]
            (refused,), waiting = await asyncio.wait(asking, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert refused.result() == 503  # so that the five others wait
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            await until(has_room)
        async with ask("last") as last:
            pieces = last.aiter_bytes()
            await anext(pieces)
    assert [line.split()[0] for line in lines(notes)] == ["first", "last"]
