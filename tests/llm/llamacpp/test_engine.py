from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llama_cpp import Llama
from tests.llm.generation.scripted_engine import ask, ask_stream, chat, streamed_text

from headrace.exceptions import ConfigError
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.llamacpp import LlamaCppEngine
from headrace.llm.engines.protocol import EngineRequest, LoadingProgress

pytestmark = pytest.mark.full

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is the engine's
            await asyncio.sleep(0.005)


async def test_starting_tells_its_progress_and_what_is_served(tiny_gguf: Path) -> None:
    progress: list[LoadingProgress] = []
    engine = LlamaCppEngine(LLMConfig(model=str(tiny_gguf), model_id="tiny", llm_engine="llamacpp"))
    info = await engine.start(progress.append)
    await engine.stop()

    assert (info.model_id, info.engine, info.max_model_len) == ("tiny", "llamacpp", 512)
    assert info.weights_bytes is not None and info.weights_bytes > 100_000
    assert CHAT in info.paths
    assert progress[-1].fraction == 1.0


@pytest.mark.parametrize("seed", range(3))
async def test_greedy_answers_are_those_of_llama_cpp_alone_for_any_order_of_arrival(
    engine: LlamaCppEngine, tiny_gguf: Path, seed: int
) -> None:
    chosen = random.Random(seed)
    prompts = [[chosen.randrange(3, 259) for _ in range(chosen.randint(1, 30))] for _ in range(10)]
    alone = Llama(str(tiny_gguf), n_ctx=512, n_threads=1, verbose=False)

    async def answer(prompt: list[int], after_s: float) -> list[str]:
        await asyncio.sleep(after_s)
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        _, answer = await ask(engine, COMPLETIONS, **body, logprobs=0)
        return list(answer["choices"][0]["logprobs"]["tokens"])

    found = await asyncio.gather(*(answer(prompt, chosen.random() * 0.05) for prompt in prompts))

    for prompt, tokens in zip(prompts, found, strict=True):
        generated = alone.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True)
        expected = [next(generated) for _ in range(12)]
        assert tokens == [alone.detokenize([token], special=True).decode("utf-8", "replace") for token in expected]
    alone.close()


async def test_streamed_and_whole_answers_are_the_same_whatever_else_runs(engine: LlamaCppEngine) -> None:
    body: dict[str, Any] = {
        "messages": chat("the mill"),
        "max_tokens": 30,
        "seed": 11,
        "top_p": 0.9,
        "ignore_eos": True,
    }
    _, alone = await ask(engine, CHAT, **body)

    others = [ask(engine, CHAT, messages=chat("water"), max_tokens=5 + place, ignore_eos=True) for place in range(6)]
    events, *_ = await asyncio.gather(ask_stream(engine, CHAT, **body), *others)

    assert streamed_text(events) == alone["choices"][0]["message"]["content"]
    assert alone["usage"]["completion_tokens"] == 30


async def test_an_answer_is_kept_to_a_json_schema(engine: LlamaCppEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "é"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    _, answer = await ask(engine, CHAT, messages=chat(), response_format=form, max_tokens=200, seed=1)

    assert json.loads(answer["choices"][0]["message"]["content"])["a"] in ("x", "é")


async def test_hanging_up_frees_the_place(engine: LlamaCppEngine) -> None:
    body = msgspec.json.encode({"messages": chat(), "stream": True, "ignore_eos": True, "max_tokens": 450})
    for round_number in range(5):
        answer = await engine.respond(EngineRequest(CHAT, body, str(round_number)))
        assert not isinstance(answer.body, bytes)
        await anext(answer.body)
        await answer.body.aclose()
        await _until(lambda: engine.load().running == 0)

    status, _ = await ask(engine, CHAT, messages=chat(), max_tokens=400, ignore_eos=True)
    assert status == 200


async def test_text_becomes_tokens_and_text_again(engine: LlamaCppEngine) -> None:
    text = "the mill, Grüße 世界"
    _, answer = await ask(engine, "/tokenize", prompt=text, add_special_tokens=False)

    assert (await ask(engine, "/detokenize", tokens=answer["tokens"]))[1]["prompt"].strip() == text


async def test_a_template_can_be_given(tiny_gguf: Path) -> None:
    config = LLMConfig(
        model=str(tiny_gguf), model_id="tiny", llm_engine="llamacpp",
        chat_template="{{ raise_exception('no chats on Sundays') }}",
    )  # fmt: skip
    engine = LlamaCppEngine(config)
    await engine.start(lambda progress: None)
    status, answer = await ask(engine, CHAT, messages=chat())
    await engine.stop()

    assert status == 400 and "no chats on Sundays" in answer["error"]["message"]


async def test_a_final_message_is_continued(engine: LlamaCppEngine) -> None:
    messages = [*chat("hi"), {"role": "assistant", "content": "the mi"}]
    body: dict[str, Any] = {"messages": messages, "add_generation_prompt": False}
    _, open_ended = await ask(engine, "/tokenize", **body, continue_final_message=True)
    _, closed = await ask(engine, "/tokenize", **body)

    assert closed["tokens"][: open_ended["count"] - 2] == open_ended["tokens"][:-2]
    assert 2 in closed["tokens"][-1:] and 2 not in open_ended["tokens"][-1:]


async def test_wrong_models_and_arguments_are_named(tiny_gguf: Path, tmp_path: Path) -> None:
    async def start(path: Path, **engine_kwargs: Any) -> None:
        engine = LlamaCppEngine(LLMConfig(model=str(path), llm_engine="llamacpp", **engine_kwargs))
        await engine.start(lambda progress: None)

    (tmp_path / "text.gguf").write_text("This is no GGUF.")
    with pytest.raises(ConfigError, match="no GGUF file"):
        await start(tmp_path / "nowhere.gguf")
    with pytest.raises(ConfigError, match="cannot load"):
        await start(tmp_path / "text.gguf")
    with pytest.raises(ConfigError, match=r"max_model_len.*512"):
        await start(tiny_gguf, max_model_len=5000)
    with pytest.raises(ConfigError, match="n_threads"):
        await start(tiny_gguf, n_thread=1)
