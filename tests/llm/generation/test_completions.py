from __future__ import annotations

import base64
import struct

from tests.llm.generation.scripted_engine import ScriptedEngine, ask, ask_stream, serve

PATH = "/v1/completions"


async def test_a_completion_is_answered_in_openais_shape() -> None:
    status, answer = await ask(await serve(ScriptedEngine("once")), PATH, prompt="Write", max_tokens=3)

    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"] == [
        {"index": 0, "text": "onc", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]
    assert answer["usage"]["completion_tokens"] == 3


async def test_several_prompts_have_n_choices_each() -> None:
    engine = await serve(ScriptedEngine("a", "b", "c", "d"))

    _, answer = await ask(engine, PATH, prompt=["one", [1, 2, 3, 4]], n=2)
    assert answer["error"]["param"] == "prompt", "texts and ids are not mixed"

    _, answer = await ask(engine, PATH, prompt=["one", "four"], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
        (3, "d"),
    ]
    assert answer["usage"]["prompt_tokens"] == 7


async def test_echo_repeats_the_prompt() -> None:
    engine = await serve(ScriptedEngine(" upon a time"))

    _, answer = await ask(engine, PATH, prompt="once", echo=True, max_tokens=30)
    assert answer["choices"][0]["text"] == "once upon a time"

    events = await ask_stream(engine, PATH, prompt=list(b"once"), echo=True, max_tokens=30)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "once upon a time"

    _, answer = await ask(engine, PATH, prompt="once", echo=True, max_tokens=0)
    assert answer["choices"][0]["text"] == "once"
    assert answer["usage"]["completion_tokens"] == 0


async def test_log_probabilities_are_parallel_lists() -> None:
    _, answer = await ask(await serve(ScriptedEngine("abc")), PATH, prompt="x", logprobs=1, max_tokens=2)

    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"a": -0.5}, {"b": -0.5}],
        "text_offset": [0, 1],
    }


async def test_a_suffix_is_refused() -> None:
    status, answer = await ask(await serve(ScriptedEngine("x")), PATH, prompt="a", suffix="b")

    assert (status, answer["error"]["param"]) == (400, "suffix")


async def test_a_stream_ends_with_its_usage() -> None:
    engine = await serve(ScriptedEngine("ab"))

    events = await ask_stream(engine, PATH, prompt="x", stream_options={"include_usage": True})

    assert [event["choices"][0]["text"] for event in events[:-2]] == ["a", "b", ""]
    assert events[-2]["usage"]["total_tokens"] == 1 + 3


async def test_text_becomes_tokens_and_text_again() -> None:
    engine = await serve(ScriptedEngine("x"))

    _, answer = await ask(engine, "/tokenize", prompt="hé", return_token_strs=True)
    assert answer["tokens"] == list("hé".encode())
    assert (answer["count"], answer["max_model_len"]) == (3, 1000)
    assert (await ask(engine, "/detokenize", tokens=answer["tokens"]))[1] == {"prompt": "hé"}

    _, answer = await ask(engine, "/tokenize", messages=[{"role": "user", "content": "hi"}])
    assert bytes(answer["tokens"]) == b"[user]hi"

    status, answer = await ask(engine, "/detokenize", tokens=[999])
    assert (status, answer["error"]["param"]) == (400, "tokens")


async def test_embeddings_come_as_numbers_or_as_base64() -> None:
    engine = await serve(ScriptedEngine("x"))

    _, answer = await ask(engine, "/v1/embeddings", input=["a", "bc"])
    assert [item["embedding"] for item in answer["data"]] == [[0.6, 0.8]] * 2
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}

    _, answer = await ask(engine, "/v1/embeddings", input="a", encoding_format="base64", dimensions=1)
    assert struct.unpack("<f", base64.b64decode(answer["data"][0]["embedding"])) == (1.0,)

    status, answer = await ask(engine, "/v1/embeddings", input="a", dimensions=3)
    assert (status, answer["error"]["param"]) == (400, "dimensions")
