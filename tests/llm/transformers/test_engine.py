from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.llm.generation.scripted_engine import ask, ask_stream, chat, streamed_text
from tests.llm.transformers.conftest import started
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from headrace.exceptions import ConfigError
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.protocol import EngineRequest, LoadingProgress
from headrace.llm.engines.transformers import TransformersEngine

pytestmark = pytest.mark.full

CHAT = "/v1/chat/completions"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is the engine's
            await asyncio.sleep(0.005)


async def test_starting_tells_its_progress_and_what_is_served(tiny: Path) -> None:
    progress: list[LoadingProgress] = []
    engine = TransformersEngine(LLMConfig(model=str(tiny), model_id="tiny", llm_engine="transformers"))
    info = await engine.start(progress.append)
    await engine.stop()

    assert (info.model_id, info.engine, info.max_model_len) == ("tiny", "transformers", 2048)
    assert info.weights_bytes is not None and info.weights_bytes > 100_000
    assert "/v1/chat/completions" in info.paths and "/v1/embeddings" not in info.paths
    assert [entry.stage for entry in progress][-2:] == ["loading weights", "warming up"]
    assert progress[-1].memory_bytes == info.weights_bytes


async def test_streamed_and_whole_answers_are_the_same(engine: TransformersEngine) -> None:
    body: dict[str, Any] = {"messages": chat("What is the capital of France?"), "max_tokens": 40, "seed": 11}

    _, answer = await ask(engine, CHAT, **body)
    events = await ask_stream(engine, CHAT, **body)

    assert streamed_text(events) == answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 40


async def test_log_probabilities_are_those_of_the_model(engine: TransformersEngine, tiny: Path) -> None:
    prompt = "The quick brown fox"
    _, answer = await ask(engine, "/v1/completions", prompt=prompt, max_tokens=3, temperature=0, logprobs=2, echo=True)
    found = answer["choices"][0]["logprobs"]["token_logprobs"]

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = tokenizer.encode(prompt)
    with torch.no_grad():
        while len(ids) < len(found):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
    expected = [float(logprobs[place, token]) for place, token in enumerate(ids[1:])]

    assert found[0] is None
    assert found[1:] == pytest.approx(expected, abs=1e-3)


async def test_an_answer_is_kept_to_a_json_schema(engine: TransformersEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answers = await asyncio.gather(
        *(ask(engine, CHAT, messages=chat(), response_format=form, max_tokens=200, seed=seed) for seed in range(6))
    )

    for _, answer in answers:
        person = json.loads(answer["choices"][0]["message"]["content"])
        assert person["name"] in ("Ada", "Bob") and 0 <= person["age"] <= 99
        assert answer["choices"][0]["finish_reason"] == "stop"


async def test_an_answer_is_kept_to_an_expression_or_a_choice(engine: TransformersEngine) -> None:
    _, answer = await ask(engine, CHAT, messages=chat(), structured_outputs={"choice": ["yes", "no"]}, max_tokens=20)
    assert answer["choices"][0]["message"]["content"] in ("yes", "no")

    _, answer = await ask(engine, CHAT, messages=chat(), structured_outputs={"regex": "[0-9]{3}"}, max_tokens=20)
    assert answer["choices"][0]["message"]["content"].isdigit()


async def test_a_required_tool_is_called_even_by_a_random_model(engine: TransformersEngine) -> None:
    # Closed: the model would go on with members of its own until its tokens are used up.
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    _, answer = await ask(
        engine, CHAT, messages=chat(), tools=tools, tool_choice="required", max_tokens=600, parallel_tool_calls=False
    )

    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] == "Rome"


@pytest.mark.parametrize("source", [{"type": "banana"}, {"$ref": "#/nowhere"}])
async def test_a_wrong_schema_is_refused(engine: TransformersEngine, source: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": source}}
    status, answer = await ask(engine, CHAT, messages=chat(), response_format=form)

    assert (status, answer["error"]["param"]) == (400, "response_format")


async def test_biases_bans_and_limits_are_kept_to(engine: TransformersEngine) -> None:
    _, answer = await ask(
        engine, "/v1/completions", prompt="x", max_tokens=6, logit_bias={"30": 100}, logprobs=0, ignore_eos=True
    )
    assert len(set(answer["choices"][0]["logprobs"]["tokens"])) == 1

    _, answer = await ask(
        engine, "/v1/completions", prompt="x", max_tokens=30, allowed_token_ids=[40, 41], logprobs=0, ignore_eos=True
    )
    assert len(set(answer["choices"][0]["logprobs"]["tokens"])) == 2

    _, answer = await ask(
        engine, "/v1/completions", prompt="x", max_tokens=30, temperature=0, frequency_penalty=2, presence_penalty=2,
        repetition_penalty=5.0, logprobs=0,
    )  # fmt: skip
    assert len(set(answer["choices"][0]["logprobs"]["tokens"])) > 15


async def test_an_end_of_the_clients_ends_the_answer(engine: TransformersEngine) -> None:
    body: dict[str, Any] = {"prompt": "x", "max_tokens": 30, "logit_bias": {"30": 100}, "stop_token_ids": [30]}
    _, answer = await ask(engine, "/v1/completions", **body)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", 30)

    _, answer = await ask(engine, "/v1/completions", **body, min_tokens=4)
    assert answer["usage"]["completion_tokens"] == 5


async def test_hanging_up_frees_the_place_and_the_cache(engine: TransformersEngine) -> None:
    body = msgspec.json.encode({"messages": chat(), "stream": True, "ignore_eos": True, "max_tokens": 1900})
    answers = [await engine.respond(EngineRequest(CHAT, body, str(number))) for number in range(6)]
    for answer in answers:
        assert not isinstance(answer.body, bytes)
    first = [asyncio.ensure_future(anext(answer.body)) for answer in answers]  # type: ignore[arg-type]
    await asyncio.wait(first[:4])
    assert (engine.load().running, engine.load().waiting) == (4, 2)
    assert (engine.load().kv_cache_use or 0) > 0

    for answer in answers[:4]:
        await answer.body.aclose()  # type: ignore[union-attr]
    await asyncio.wait(first)
    assert engine.load().running == 2, "those that waited have the places"

    for answer in answers[4:]:
        await answer.body.aclose()  # type: ignore[union-attr]
    await _until(lambda: engine.load().running == 0)
    assert engine.load().kv_cache_use == 0


async def test_cancelling_a_request_frees_its_place(engine: TransformersEngine) -> None:
    task = asyncio.ensure_future(ask(engine, CHAT, messages=chat(), ignore_eos=True, max_tokens=1900))
    await _until(lambda: engine.load().running == 1)
    task.cancel()

    await _until(lambda: engine.load().running == 0)


async def test_the_loop_stays_free_while_the_model_runs(engine: TransformersEngine) -> None:
    task = asyncio.ensure_future(ask(engine, CHAT, messages=chat(), ignore_eos=True, max_tokens=100))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100


async def test_a_failing_step_costs_the_requests_in_the_batch_and_no_others(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: Any = engine._engine._loaded.runner  # type: ignore[attr-defined]
    forward = runner._forward
    failures = iter([RuntimeError("out of memory")])

    def failing(*arguments: Any) -> Any:
        for error in failures:
            raise error
        return forward(*arguments)

    monkeypatch.setattr(runner, "_forward", failing)
    status, answer = await ask(engine, CHAT, messages=chat(), max_tokens=5)
    assert status == 500 and "out of memory" in answer["error"]["message"]

    status, _ = await ask(engine, CHAT, messages=chat(), max_tokens=5)
    assert status == 200
    await engine.check_health()


async def test_a_model_that_keeps_failing_is_not_healthy(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        raise RuntimeError("the device is gone")

    runner: Any = engine._engine._loaded.runner  # type: ignore[attr-defined]
    monkeypatch.setattr(runner, "_forward", failing)
    for _ in range(3):
        status, _ = await ask(engine, CHAT, messages=chat(), max_tokens=5)
        assert status == 500

    with pytest.raises(RuntimeError, match="the device is gone"):
        await engine.check_health()


async def test_a_sleeping_engine_answers_after_it_woke(engine: TransformersEngine) -> None:
    await engine.sleep(1)
    task = asyncio.ensure_future(ask(engine, CHAT, messages=chat(), max_tokens=5))
    await asyncio.sleep(0.05)
    assert not task.done()

    await engine.wake()
    status, _ = await task
    assert status == 200


async def test_falling_asleep_waits_for_a_prompt_that_is_half_read(engine: TransformersEngine) -> None:
    task = asyncio.ensure_future(ask(engine, "/v1/completions", prompt=[9] * 900, max_tokens=3))
    await _until(lambda: (engine.load().kv_cache_use or 0) > 0)
    async with asyncio.timeout(60):
        await engine.sleep(1)

    assert (await task)[0] == 200
    await engine.wake()


async def test_stopping_ends_what_is_being_generated(tiny: Path) -> None:
    engine = await started(tiny)
    task = asyncio.ensure_future(ask(engine, CHAT, messages=chat(), ignore_eos=True, max_tokens=1900))
    await _until(lambda: engine.load().running == 1)
    await engine.stop()

    status, _ = await task
    assert status == 500


async def test_wrong_arguments_are_named(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="max_num_seqs"):
        TransformersEngine(LLMConfig(model=str(tiny), llm_engine="transformers", max_num_seq=4))
    with pytest.raises(ConfigError, match=r"max_model_len.*2048"):
        await started(tiny, max_model_len=5000)
    with pytest.raises(ConfigError, match="model_source"):
        await started(tiny / "nowhere")
    with pytest.raises(ConfigError, match="device"):
        await started(tiny, device="abacus")


async def test_a_model_made_for_embeddings_embeds(tiny: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=600, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        architectures=["BertModel"],
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = await started(tmp_path)
    try:
        _, answer = await ask(engine, "/v1/embeddings", input=["A mill", "The miller and the cat"])
        status, _ = await ask(engine, CHAT, messages=chat())
    finally:
        await engine.stop()

    assert status == 404
    for item, text in zip(answer["data"], ["A mill", "The miller and the cat"], strict=True):
        with torch.no_grad():
            mean = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0].mean(dim=0)
        expected = torch.nn.functional.normalize(mean, dim=0).tolist()
        assert item["embedding"] == pytest.approx(expected, abs=1e-5)
