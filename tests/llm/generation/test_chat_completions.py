from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.llm.generation.scripted_engine import ScriptedEngine, ask, ask_stream, chat, serve, streamed_text

from headrace.llm.engines.protocol import EngineRequest

PATH = "/v1/chat/completions"
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}}
]


async def test_a_chat_is_answered_in_openais_shape() -> None:
    engine = await serve(ScriptedEngine("Grüße, 世界"))

    status, answer = await ask(engine, PATH, messages=chat(), model="scripted")

    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "scripted"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Grüße, 世界", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": len("[user]hello"),
        "completion_tokens": len("Grüße, 世界".encode()) + 1,
        "total_tokens": len("[user]hello") + len("Grüße, 世界".encode()) + 1,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


@pytest.mark.parametrize("tokens_per_step", [1, 3, 100])
async def test_a_stream_says_the_same_as_one_answer(tokens_per_step: int) -> None:
    engine = await serve(ScriptedEngine("Grüße, 世界!", tokens_per_step=tokens_per_step))

    events = await ask_stream(engine, PATH, messages=chat(), stream_options={"include_usage": True})

    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert streamed_text(events) == "Grüße, 世界!"
    assert events[-3]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["completion_tokens"] == len("Grüße, 世界!".encode()) + 1
    assert events[-1] == "[DONE]"
    assert not any("usage" in event for event in events[:-2])


async def test_usage_in_every_event_counts_up() -> None:
    engine = await serve(ScriptedEngine("abc"))

    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await ask_stream(engine, PATH, messages=chat(), stream_options=options)

    assert [event["usage"]["completion_tokens"] for event in events[:-1]] == [1, 1, 2, 3, 4, 4]


async def test_events_that_are_ready_leave_as_one() -> None:
    engine = await serve(ScriptedEngine("abcdef", tokens_per_step=100))
    body = msgspec.json.encode({"messages": chat(), "stream": True})

    answer = await engine.respond(EngineRequest(PATH, body, "id"))
    assert not isinstance(answer.body, bytes)
    parts = [part async for part in answer.body]

    assert len(parts) == 1
    assert parts[0].count(b"data: ") == 1 + 6 + 1 + 1, "one event for each token still"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_stop_string_ends_the_answer_and_the_generation(stream: bool, n: int) -> None:
    scripted = ScriptedEngine("one two three four five six")
    engine = await serve(scripted)
    body: dict[str, Any] = {"messages": chat(), "stop": ["three", "xx"], "n": n}

    if stream:
        events = await ask_stream(engine, PATH, **body)
        texts = [streamed_text(events, index) for index in range(n)]
        last = [choice for event in events[:-1] for choice in event["choices"] if choice["finish_reason"]]
    else:
        _, answer = await ask(engine, PATH, **body)
        last = answer["choices"]
        texts = [choice["message"]["content"] for choice in last]

    assert texts == ["one two "] * n
    assert [(choice["finish_reason"], choice["stop_reason"]) for choice in last] == [("stop", "three")] * n
    assert scripted.closed == n


async def test_choices_are_told_apart_by_their_index() -> None:
    engine = await serve(ScriptedEngine("first", "second", "third"))

    _, answer = await ask(engine, PATH, messages=chat(), n=3)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["first", "second", "third"]

    engine = await serve(ScriptedEngine("first", "second", "third"))
    events = await ask_stream(engine, PATH, messages=chat(), n=3)
    assert [streamed_text(events, index) for index in range(3)] == ["first", "second", "third"]


async def test_choices_have_seeds_of_their_own() -> None:
    scripted = ScriptedEngine("x")
    await ask(await serve(scripted), PATH, messages=chat(), n=2, seed=5)

    assert [sampling.seed for _, sampling in scripted.asked] == [5, 6]


async def test_hanging_up_ends_the_generation() -> None:
    scripted = ScriptedEngine("a long answer")
    engine = await serve(scripted)
    body = msgspec.json.encode({"messages": chat(), "stream": True})

    answer = await engine.respond(EngineRequest(PATH, body, "id"))
    assert not isinstance(answer.body, bytes)
    await anext(answer.body)
    await answer.body.aclose()

    assert scripted.closed == 1


async def test_log_probabilities_come_with_the_tokens() -> None:
    engine = await serve(ScriptedEngine("ab"))

    _, answer = await ask(engine, PATH, messages=chat(), logprobs=True, top_logprobs=1, max_tokens=2)
    content = answer["choices"][0]["logprobs"]["content"]
    one = {"token": "a", "logprob": -0.5, "bytes": [97]}
    assert content[0] == {**one, "top_logprobs": [one]}
    assert [entry["token"] for entry in content] == ["a", "b"]

    events = await ask_stream(engine, PATH, messages=chat(), logprobs=True, max_tokens=2)
    with_logprobs = [event["choices"][0] for event in events[:-1] if event["choices"][0]["logprobs"]]
    assert [choice["logprobs"]["content"][0]["token"] for choice in with_logprobs] == ["a", "b"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_is_taken_out_of_the_text(stream: bool) -> None:
    engine = await serve(
        ScriptedEngine('Let me see.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>')
    )

    if stream:
        events = await ask_stream(engine, PATH, messages=chat(), tools=TOOLS)
        deltas = [event["choices"][0]["delta"] for event in events[:-1]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        content = streamed_text(events)
        name, arguments = calls[0]["function"]["name"], "".join(call["function"]["arguments"] for call in calls)
        finish_reason = events[-2]["choices"][0]["finish_reason"]
    else:
        _, answer = await ask(engine, PATH, messages=chat(), tools=TOOLS)
        (choice,) = answer["choices"]
        (call,) = choice["message"]["tool_calls"]
        content, finish_reason = choice["message"]["content"], choice["finish_reason"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]

    assert (content, name, json.loads(arguments), finish_reason) == (
        "Let me see.",
        "weather",
        {"city": "Rome"},
        "tool_calls",
    )


async def test_a_named_tool_is_called_with_arguments_that_match_its_schema() -> None:
    scripted = ScriptedEngine('{"city": "Rome"}')
    choice = {"type": "function", "function": {"name": "weather"}}
    _, answer = await ask(await serve(scripted), PATH, messages=chat(), tools=TOOLS, tool_choice=choice)

    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    constraint = scripted.asked[0][1].constraint
    assert constraint is not None
    assert json.loads(constraint.source) == TOOLS[0]["function"]["parameters"]  # type: ignore[index]


async def test_a_required_call_is_one_of_the_tools() -> None:
    scripted = ScriptedEngine('[{"name": "weather", "parameters": {"city": "Rome"}}]')
    _, answer = await ask(await serve(scripted), PATH, messages=chat(), tools=TOOLS, tool_choice="required")

    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Rome"}'}


async def test_arguments_of_earlier_calls_reach_the_template_as_values() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{bad"}}
    messages = [*chat(), {"role": "assistant", "content": None, "tool_calls": [call]}]
    status, answer = await ask(await serve(ScriptedEngine("x")), PATH, messages=messages)

    assert status == 400
    assert answer["error"]["param"] == "messages[1].tool_calls[0].function.arguments"


async def test_a_response_format_becomes_a_constraint() -> None:
    scripted = ScriptedEngine("{}")
    engine = await serve(scripted)
    schema = {"type": "object", "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    await ask(engine, PATH, messages=chat(), response_format=form)
    await ask(engine, PATH, messages=chat(), response_format={"type": "json_object"})

    sources = [sampling.constraint and json.loads(sampling.constraint.source) for _, sampling in scripted.asked]
    assert sources == [schema, {"type": "object"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_cannot_be_kept_to_is_refused_before_anything_is_generated(stream: bool) -> None:
    scripted = ScriptedEngine("x")
    form = {"type": "json_schema", "json_schema": {"schema": {"title": "impossible"}}}
    status, answer = await ask(await serve(scripted), PATH, messages=chat(), response_format=form, stream=stream)

    assert (status, answer["error"]["param"]) == (400, "response_format")
    assert scripted.asked == []


async def test_an_engine_that_gives_up_is_told_in_the_stream_or_as_500() -> None:
    engine = await serve(ScriptedEngine("abcdef", fails_after=2))

    events = await ask_stream(engine, PATH, messages=chat())
    assert events[-2]["error"]["message"] == "the model is out of memory"
    assert events[-1] == "[DONE]"

    status, answer = await ask(engine, PATH, messages=chat())
    assert (status, answer["error"]["type"]) == (500, "server_error")


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "image_url"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "cannot begin with a tool"),
        ({}, "messages", "required"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"temperature": "hot"}, "temperature", "float"),
        ({"top_p": 0}, "top_p", "more than 0"),
        ({"top_k": -2}, "top_k", "1 or more"),
        ({"n": 0}, "n", "from 1"),
        ({"max_tokens": 0}, "max_tokens", "1 or more"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "1 or more"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens", "at most the 5"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"stop": [""]}, "stop", "empty"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token id"),
        ({"tools": []}, "tools", "at least one"),
        ({"chat_template": "{% for x in range(10 ** 9) %}{% endfor %}"}, "chat_template", "not run"),
        ({"structured_outputs": {"json": {"title": "impossible"}}}, "structured_outputs", "no text"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "'auto'"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "json_schema"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "bool"),
    ],
)
async def test_a_wrong_parameter_is_named(body: dict[str, Any], param: str, said: str) -> None:
    engine = await serve(ScriptedEngine("x"))
    whole = body if body == {} or "messages" in body else {"messages": chat(), **body}

    status, answer = await ask(engine, PATH, **whole)

    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] == param
    assert param in answer["error"]["message"] and said in answer["error"]["message"]


async def test_a_context_that_is_too_long_is_refused_with_both_numbers() -> None:
    engine = await serve(ScriptedEngine("x"))

    status, answer = await ask(engine, PATH, messages=chat("x" * 990), max_tokens=100)

    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "1000" in answer["error"]["message"] and "996" in answer["error"]["message"]


async def test_unknown_parameters_are_ignored() -> None:
    status, _ = await ask(await serve(ScriptedEngine("x")), PATH, messages=chat(), a_new_parameter=1, user="me")

    assert status == 200


async def test_a_body_that_is_no_json_is_refused() -> None:
    engine = await serve(ScriptedEngine("x"))

    answer = await engine.respond(EngineRequest(PATH, b"{", "id"))

    assert answer.status == 400
    assert isinstance(answer.body, bytes) and b"not valid JSON" in answer.body


async def test_a_path_that_the_model_does_not_answer_names_those_that_it_does() -> None:
    status, answer = await ask(await serve(ScriptedEngine("x")), "/v1/rerank")

    assert status == 404
    assert "/v1/chat/completions" in answer["error"]["message"]
