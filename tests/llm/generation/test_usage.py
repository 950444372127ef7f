"""The tokens that a server counts of answers, whatever clients ask for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.llm.generation.scripted_engine import ScriptedEngine, chat, serve

from headrace.llm.engines.protocol import EngineRequest, EngineResponse

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": chat()},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": chat(), "max_tokens": 100},
}


async def answer(engine: ScriptedEngine, path: str, **body: Any) -> EngineResponse:
    request = EngineRequest(path, msgspec.json.encode({**PATHS[path], **body}), "id")
    response = await (await serve(engine)).respond(request)
    assert response.status == 200
    return response


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_every_api_tells_the_tokens_of_an_answer(path: str, stream: bool) -> None:
    response = await answer(ScriptedEngine("four"), path, stream=stream)
    if not isinstance(response.body, bytes):
        _ = [piece async for piece in response.body]
    usage = response.usage
    assert usage is not None
    assert usage.prompt_tokens >= 5
    assert usage.completion_tokens == 5
    assert usage.cached_tokens == 2
    assert not usage.failed


async def test_an_answer_that_is_given_up_counts_with_what_it_had() -> None:
    response = await answer(ScriptedEngine("a long answer"), "/v1/chat/completions", stream=True)
    assert not isinstance(response.body, bytes)
    for _ in range(3):
        await anext(response.body)
    await response.body.aclose()
    assert response.usage is not None
    assert response.usage.completion_tokens == 3


async def test_an_answer_that_the_engine_gives_up_has_failed() -> None:
    response = await answer(ScriptedEngine("answer", fails_after=2), "/v1/chat/completions", stream=True)
    assert not isinstance(response.body, bytes)
    _ = [piece async for piece in response.body]
    assert response.usage is not None
    assert response.usage.failed
    assert response.usage.completion_tokens == 2
