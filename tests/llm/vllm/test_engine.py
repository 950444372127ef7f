"""`VLLMEngine` by itself: how it starts, what it tells of itself, and how it ends. Its model makes embeddings."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from tests.llm.vllm.conftest import ENGINE_KWARGS

from headrace.exceptions import ConfigError
from headrace.llm import LLMConfig
from headrace.llm.engines.protocol import EngineRequest, LoadingProgress, ModelInfo
from headrace.llm.engines.vllm import VLLMEngine

pytest.importorskip("vllm")
pytestmark = [pytest.mark.full, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Started:
    """An engine and what it told when it started."""

    engine: VLLMEngine
    progress: list[LoadingProgress] = field(default_factory=list)
    info: ModelInfo | None = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(environment: None, model: Path) -> AsyncIterator[Started]:
    config = LLMConfig(
        model_loading_config={"model_id": "embed", "model_source": str(model)},
        engine_kwargs={**ENGINE_KWARGS, "runner": "pooling", "convert": "embed"},
    )
    started = Started(VLLMEngine(config))
    started.info = await started.engine.start(started.progress.append)
    yield started
    await started.engine.stop()


async def ask(engine: VLLMEngine, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    response = await engine.respond(EngineRequest(path, json.dumps({"model": "embed", **body}).encode(), "id"))
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


async def test_loading_is_told_stage_by_stage(started: Started) -> None:
    stages = list(dict.fromkeys(progress.stage for progress in started.progress))

    assert stages == ["importing vLLM", "loading weights", "warming up", "ready"]
    assert LoadingProgress("loading weights", 1.0) in started.progress


async def test_the_weights_size_is_told(started: Started, model: Path) -> None:
    assert started.info is not None and started.info.weights_bytes is not None
    on_disk = (model / "model.safetensors").stat().st_size

    # Of 32 bits on disk, perhaps of 16 in memory; vLLM may pad.
    assert 0.4 * on_disk < started.info.weights_bytes < 2 * on_disk
    assert started.progress[-1] == LoadingProgress("ready", 1.0, started.info.weights_bytes)


async def test_the_model_is_described_with_the_paths_that_it_answers(started: Started) -> None:
    assert started.info is not None

    assert (started.info.model_id, started.info.engine, started.info.max_model_len) == ("embed", "vllm", 512)
    assert {"/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"} <= started.info.paths
    assert "/v1/chat/completions" not in started.info.paths


async def test_a_path_that_the_model_has_not_is_not_found(started: Started) -> None:
    status, body = await ask(started.engine, "/v1/chat/completions", {"messages": []})

    assert status == 404
    assert "/v1/chat/completions" in body["error"]["message"]


async def test_embeddings_of_alike_texts_are_alike(started: Started) -> None:
    status, body = await ask(started.engine, "/v1/embeddings", {"input": ["the wheel", "the wheel", "fast water"]})
    assert status == 200

    same, again, other = (item["embedding"] for item in body["data"])
    assert same == pytest.approx(again, abs=1e-2)
    assert sum(a * b for a, b in zip(same, again, strict=True)) > sum(a * b for a, b in zip(same, other, strict=True))


async def test_documents_are_ranked_by_their_likeness(started: Started) -> None:
    body = {"query": "the wheel", "documents": ["fast water", "the wheel"]}

    status, answer = await ask(started.engine, "/v1/rerank", body)

    assert status == 200
    assert [result["index"] for result in answer["results"]] == [1, 0]


async def test_texts_are_scored_by_their_likeness(started: Started) -> None:
    status, answer = await ask(
        started.engine, "/v1/score", {"text_1": "the wheel", "text_2": ["the wheel", "fast water"]}
    )

    assert status == 200
    same, other = (item["score"] for item in answer["data"])
    assert same > other


async def test_without_lora_adapters_are_refused(started: Started, adapters: Path) -> None:
    with pytest.raises(ConfigError, match="lora_config"):
        await started.engine.add_adapter("one", str(adapters / "one"))


async def test_an_idle_engine_says_so(started: Started) -> None:
    load = started.engine.load()

    assert (load.running, load.waiting, load.kv_cache_use) == (0, 0, 0.0)


async def test_a_cpu_cannot_drop_the_weights(started: Started) -> None:
    with pytest.raises(ConfigError, match="level"):
        await started.engine.sleep(2)


async def test_an_engine_that_slept_answers_again(started: Started) -> None:
    await started.engine.sleep(1)
    await started.engine.wake()

    status, _ = await ask(started.engine, "/v1/embeddings", {"input": "the wheel"})
    assert status == 200


@pytest.mark.parametrize(
    ("engine_kwargs", "said"),
    [
        ({"max_modellen": 512}, "max_modellen.*did you mean 'max_model_len'"),
        ({"port": 8001}, "port.*HTTP server"),
        ({"max_model_len": "many"}, "max_model_len.*'many'"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"enable_auto_tool_choice": True}, "tool-call-parser"),
    ],
)
async def test_a_wrong_argument_is_refused_before_anything_is_loaded(
    model: Path, engine_kwargs: dict[str, Any], said: str
) -> None:
    engine = VLLMEngine(LLMConfig(model=str(model), engine_kwargs=engine_kwargs))
    before = {child.pid for child in psutil.Process().children()}

    with pytest.raises(ConfigError, match=said):
        await engine.start(lambda progress: None)

    assert {child.pid for child in psutil.Process().children()} <= before
    await engine.stop()


async def test_a_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    engine = VLLMEngine(LLMConfig(model=str(tmp_path / "nothing")))

    with pytest.raises(ConfigError, match="nothing"):
        await engine.start(lambda progress: None)
    await engine.stop()


async def test_a_killed_engine_core_is_noticed_at_once_and_leaves_nothing(started: Started) -> None:
    # The last test of this module: the engine is shared.
    await started.engine.check_health()
    processes = started.engine._processes()
    core = next(process for process in processes if process.ppid() == os.getpid() and process.children())

    os.kill(core.pid, signal.SIGKILL)

    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(Exception, match="EngineCore"):
        await started.engine.check_health()
    status, _ = await ask(started.engine, "/v1/embeddings", {"input": "the wheel"})
    assert status >= 500
