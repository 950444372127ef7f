"""Requests to a model before its clients'."""

from __future__ import annotations

import pytest
from tests.llm.generation.scripted_engine import ScriptedEngine

from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.protocol import LoadingProgress
from headrace.llm.engines.simulated import SimulatedEngine
from headrace.llm.generation.engine import GenerationEngine
from headrace.llm.warm_up import warm_up


async def warmed(token_engine: ScriptedEngine) -> list[str]:
    """The stages that were told of."""
    engine = GenerationEngine(token_engine)
    info = await engine.start(lambda progress: None)
    stages: list[str] = []
    await warm_up(engine, info, lambda progress: stages.append(progress.stage))
    return stages


async def test_a_model_answers_a_short_request_of_each_kind() -> None:
    engine = ScriptedEngine("a long answer")
    assert await warmed(engine) == ["warming up"]
    assert [sampling.max_tokens for _, sampling in engine.asked] == [2, 2, 2]
    assert engine.closed == 0


async def test_a_model_that_fails_at_its_first_request_does_not_start() -> None:
    with pytest.raises(RuntimeError, match=r"failed at a first request to /v1/chat/completions: .*out of memory"):
        await warmed(ScriptedEngine("answer", fails_after=0))


async def test_a_simulated_model_has_nothing_to_warm_up() -> None:
    engine = SimulatedEngine(LLMConfig(model="m", llm_engine="simulated", time_to_first_token_s=600.0))
    told: list[LoadingProgress] = []
    await warm_up(engine, await engine.start(lambda progress: None), told.append)
    assert not told
