"""The simulated engine by itself: what it answers, and when."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.exceptions import ConfigError
from headrace.llm import LLMConfig
from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.engines.simulated import SimulatedEngine
from headrace.llm.engines.simulated.pace import TOKENS_AT_ONCE, Pace
from headrace.llm.engines.simulated.text import Answer, count_tokens, text_of, token_ids

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def engine(**settings: Any) -> SimulatedEngine:
    return SimulatedEngine(LLMConfig(model="m", llm_engine="simulated", engine_kwargs=settings))


async def ask(simulated: SimulatedEngine, path: str = CHAT, **fields: Any) -> EngineResponse:
    return await simulated.respond(EngineRequest(path, msgspec.json.encode({"model": "m"} | fields), "id"))


async def answer(simulated: SimulatedEngine, path: str = CHAT, **fields: Any) -> Any:
    response = await ask(simulated, path, **fields)
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body)


async def events(simulated: SimulatedEngine, path: str = CHAT, **fields: Any) -> list[Any]:
    response = await ask(simulated, path, stream=True, **fields)
    assert response.media_type == "text/event-stream"
    assert not isinstance(response.body, bytes)
    text = b"".join([piece async for piece in response.body])
    lines = text.split(b"\n\n")
    assert lines[-2:] == [b"data: [DONE]", b""]
    return [msgspec.json.decode(line.removeprefix(b"data: ")) for line in lines[:-2]]


@given(st.text())
def test_text_survives_being_tokens(text: str) -> None:
    tokens = token_ids(text)
    assert text_of(tokens) == text
    assert len(tokens) == count_tokens(text)


@given(st.lists(st.integers(-(2**40), 2**70)))
def test_numbers_that_are_no_tokens_are_refused(numbers: list[int]) -> None:
    try:
        text = text_of(numbers)
    except (ValueError, OverflowError):
        return
    assert isinstance(text, str)


@given(st.text(), st.integers(1, 500), st.data())
def test_an_answer_is_the_same_however_it_is_cut(prompt: str, length: int, data: st.DataObject) -> None:
    made = Answer(prompt, None, 0, length, [])
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=5)))
    pieces = [made.tokens(begin, end) for begin, end in zip([0, *cuts], [*cuts, length], strict=True)]
    assert "".join(token for piece in pieces for token in piece) == made.text()
    assert token_ids(made.text()) == token_ids("".join(Answer(prompt, 0, 0, length, []).tokens(0, length)))
    assert count_tokens(made.text()) == length


@given(st.text(), st.integers(1, 300), st.data())
def test_a_stop_string_ends_an_answer_before_itself(prompt: str, length: int, data: st.DataObject) -> None:
    whole = Answer(prompt, None, 0, length, []).text()
    begin = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[begin : begin + data.draw(st.integers(1, 9))]
    stopped = Answer(prompt, None, 0, length, [stop, "never"])
    assert stopped.stopped
    assert stopped.text() == whole[: whole.index(stop)]
    assert stopped.length == count_tokens(whole[: whole.index(stop) + len(stop)])


@given(st.floats(0, 10), st.floats(0, 1), st.integers(1, 1000), st.data())
def test_tokens_are_due_when_the_pace_says(first_s: float, each_s: float, length: int, data: st.DataObject) -> None:
    pace = Pace(100.0, first_s, each_s)
    sent = data.draw(st.integers(0, length))
    due = pace.due(data.draw(st.floats(90, 300)), sent, length)
    assert sent <= due <= min(length, sent + TOKENS_AT_ONCE)
    assert pace.due(pace.time_of(sent) + 1e-6, sent, length) > sent or sent == length
    assert pace.due(100.0 + first_s - 1e-3, sent, length) == sent


@given(st.floats(0, 1e6), st.floats(0, 10), st.floats(0, 2))
def test_an_answer_joins_the_others_at_the_next_step(now: float, first_s: float, each_s: float) -> None:
    pace = Pace.joining(now, first_s, each_s)
    earliest = now + first_s
    assert earliest - 1e-6 <= pace.time_of(0) <= earliest + each_s + 1e-6
    if each_s >= 0.001:
        other = Pace.joining(now + 0.7 * each_s, first_s, each_s)
        steps = (other.time_of(0) - pace.time_of(0)) / each_s
        assert steps == pytest.approx(round(steps), abs=1e-3)


async def test_the_same_request_gets_the_same_answer() -> None:
    first, second = [await answer(engine(), messages=HELLO, max_tokens=9) for _ in range(2)]
    assert first["choices"] == second["choices"]
    assert first["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    assert first["choices"][0]["finish_reason"] == "length"


async def test_another_seed_gets_another_answer() -> None:
    texts = {(await answer(engine(), messages=HELLO, seed=seed))["choices"][0]["message"]["content"] for seed in (1, 2)}
    assert len(texts) == 2


async def test_the_parts_of_a_stream_are_the_whole() -> None:
    fields: dict[str, Any] = {"messages": HELLO, "max_tokens": 200, "n": 3, "seed": 5}
    whole = await answer(engine(), **fields)
    chunks = await events(engine(), **fields, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        deltas = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in deltas) == choice["message"]["content"]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert [part["finish_reason"] for part in deltas if part["finish_reason"]] == [choice["finish_reason"]]


async def test_a_completion_streams_text() -> None:
    fields: dict[str, Any] = {"prompt": ["one", "two"], "max_tokens": 5}
    whole = await answer(engine(), "/v1/completions", **fields)
    chunks = await events(engine(), "/v1/completions", **fields)
    for choice in whole["choices"]:
        parts = [c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(parts) == choice["text"]
    assert len(whole["choices"]) == 2


async def test_a_stop_string_is_no_part_of_the_answer() -> None:
    text: str = (await answer(engine(), messages=HELLO, max_tokens=20))["choices"][0]["message"]["content"]
    stop = text[7:12]
    stopped = (await answer(engine(), messages=HELLO, max_tokens=20, stop=stop))["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"
    chunks = await events(engine(), messages=HELLO, max_tokens=20, stop=[stop])
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == text[: text.index(stop)]


async def test_tokens_come_at_the_stated_pace() -> None:
    simulated = engine(time_to_first_token_s=0.2, time_per_output_token_s=0.05)
    began = time.monotonic()
    response = await ask(simulated, messages=HELLO, max_tokens=5, stream=True)
    assert not isinstance(response.body, bytes)
    times = [time.monotonic() - began async for _ in response.body]
    assert times[0] >= 0.2
    assert times[-1] >= 0.4
    assert len(times) == 5


async def test_more_requests_than_places_wait_for_their_turn() -> None:
    simulated = engine(time_to_first_token_s=0.1, max_num_seqs=2)
    asked = [asyncio.ensure_future(answer(simulated, messages=HELLO)) for _ in range(6)]
    await asyncio.sleep(0.05)
    load = simulated.load()
    assert (load.running, load.waiting, load.kv_cache_use) == (2, 4, 1.0)
    await asyncio.gather(*asked)
    assert simulated.load().running == simulated.load().waiting == 0


async def test_a_stream_that_is_closed_gives_its_place_back_at_once() -> None:
    simulated = engine(time_per_output_token_s=10.0, max_num_seqs=1)
    response = await ask(simulated, messages=HELLO, stream=True)
    assert not isinstance(response.body, bytes)
    await anext(response.body)
    assert simulated.load().running == 1
    await response.body.aclose()
    assert simulated.load().running == 0


async def test_a_request_that_is_cancelled_while_it_waits_leaves_the_queue() -> None:
    simulated = engine(time_to_first_token_s=30.0, max_num_seqs=1)
    first, second = [asyncio.ensure_future(answer(simulated, messages=HELLO)) for _ in range(2)]
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert (simulated.load().running, simulated.load().waiting) == (1, 0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert simulated.load().running == 0


async def test_a_request_beyond_the_context_is_told_both_numbers() -> None:
    simulated = engine(max_model_len=100)
    response = await ask(simulated, messages=[{"role": "user", "content": "x" * 500}])
    assert response.status == 400
    assert isinstance(response.body, bytes)
    error = msgspec.json.decode(response.body)["error"]
    assert error["code"] == "context_length_exceeded"
    assert "100 tokens" in error["message"]
    assert "127 in the messages" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": HELLO, "n": 0}, "n"),
        ({"messages": HELLO, "n": "two"}, "n"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "logprobs": True}, "logprobs"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ],
)
async def test_a_wrong_parameter_is_named(fields: dict[str, Any], param: str) -> None:
    response = await ask(engine(), **fields)
    assert response.status == 400
    assert isinstance(response.body, bytes)
    assert msgspec.json.decode(response.body)["error"]["param"] == param


async def test_embeddings_follow_from_the_text() -> None:
    simulated = engine(embedding_dimensions=8)
    first, second, third = (await answer(simulated, "/v1/embeddings", input=["a", "b", "a"]))["data"]
    assert first["embedding"] == third["embedding"] != second["embedding"]
    assert sum(value * value for value in first["embedding"]) == pytest.approx(1.0)
    encoded = (await answer(simulated, "/v1/embeddings", input="a", encoding_format="base64"))["data"][0]
    assert len(encoded["embedding"]) == 44  # 8 floats of 4 bytes


async def test_tokens_become_the_text_that_they_were() -> None:
    simulated = engine()
    tokenized = await answer(simulated, "/tokenize", prompt="grün, naturally")
    assert tokenized["count"] == len(tokenized["tokens"])
    detokenized = await answer(simulated, "/detokenize", tokens=tokenized["tokens"])
    assert detokenized == {"prompt": "grün, naturally"}


async def test_an_unknown_setting_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'time_to_first_token_s'"):
        engine(time_to_first_token=1.0)


async def test_the_responses_api_says_what_a_chat_says() -> None:
    simulated = engine()
    chat = await answer(simulated, messages=HELLO, max_tokens=6)
    whole = await answer(simulated, "/v1/responses", input="hello", max_output_tokens=6)
    (message,) = whole["output"]
    assert message["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert whole["usage"]["output_tokens"] == 6


async def test_the_messages_api_says_what_a_chat_says() -> None:
    simulated = engine()
    chat = await answer(simulated, messages=HELLO, max_tokens=6)
    whole = await answer(simulated, "/v1/messages", messages=HELLO, max_tokens=6)
    assert whole["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert whole["stop_reason"] == "max_tokens"
    count = await answer(simulated, "/v1/messages/count_tokens", messages=HELLO)
    assert count["input_tokens"] == chat["usage"]["prompt_tokens"]


async def test_an_adapter_answers_otherwise_than_the_model() -> None:
    simulated = engine()
    texts = {
        (await answer(simulated, messages=HELLO, model=model))["choices"][0]["message"]["content"]
        for model in ("m", "m:danish", "m:finnish")
    }
    assert len(texts) == 3
