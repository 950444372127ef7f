"""`/v1/responses` and `/v1/messages`, which are chats in another form."""

from __future__ import annotations

import json

from tests.llm.generation.scripted_engine import ScriptedEngine, ask, ask_stream, chat, serve

CALL = 'Wait.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
RESPONSES_TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
MESSAGES_TOOLS = [{"name": "weather", "input_schema": {"type": "object"}}]


async def test_a_response_has_its_text_and_usage() -> None:
    _, answer = await ask(await serve(ScriptedEngine("Hello")), "/v1/responses", input="hi", instructions="Be kind")

    assert answer["status"] == "completed"
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    assert answer["usage"]["output_tokens"] == 6
    assert answer["usage"]["input_tokens"] == len("[system]Be kind[user]hi")


async def test_the_events_of_a_response_are_numbered_and_end_with_the_whole() -> None:
    events = await ask_stream(await serve(ScriptedEngine("Hey")), "/v1/responses", input="hi")

    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hey"


async def test_a_response_that_calls_a_tool_has_an_item_for_it() -> None:
    engine = await serve(ScriptedEngine(CALL))

    _, answer = await ask(engine, "/v1/responses", input="hi", tools=RESPONSES_TOOLS)
    message, call = answer["output"]
    assert message["content"][0]["text"] == "Wait."
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "weather", {"city": "Rome"})

    events = await ask_stream(engine, "/v1/responses", input="hi", tools=RESPONSES_TOOLS)
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert json.loads("".join(deltas)) == {"city": "Rome"}
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]


async def test_calls_and_their_results_are_sent_back_as_items() -> None:
    scripted = ScriptedEngine("It is warm.")
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "30 degrees"},
    ]
    status, _ = await ask(await serve(scripted), "/v1/responses", input=items)

    assert status == 200
    assert bytes(scripted.asked[0][0]) == b"[user]hi[assistant][tool]30 degrees"


async def test_a_response_that_was_cut_off_is_incomplete() -> None:
    engine = await serve(ScriptedEngine("Hello"))
    _, answer = await ask(engine, "/v1/responses", input="hi", max_output_tokens=2)

    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    events = await ask_stream(engine, "/v1/responses", input="hi", max_output_tokens=2)
    assert events[-1]["type"] == "response.incomplete"


async def test_responses_are_not_stored() -> None:
    status, answer = await ask(
        await serve(ScriptedEngine("x")), "/v1/responses", input="hi", previous_response_id="resp_1"
    )

    assert (status, answer["error"]["param"]) == (400, "previous_response_id")


async def test_a_response_whose_engine_gives_up_fails() -> None:
    events = await ask_stream(await serve(ScriptedEngine("abcdef", fails_after=2)), "/v1/responses", input="hi")

    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "the model is out of memory"


async def test_a_message_has_anthropics_shape() -> None:
    engine = await serve(ScriptedEngine("Hello"))
    _, answer = await ask(engine, "/v1/messages", messages=chat("hi"), system="Be kind", max_tokens=50)

    assert answer["type"] == "message"
    assert answer["content"] == [{"type": "text", "text": "Hello"}]
    assert answer["stop_reason"] == "end_turn"
    prompt_tokens = len("[system]Be kind[user]hi")
    assert answer["usage"] == {
        "input_tokens": prompt_tokens - 2,
        "cache_read_input_tokens": 2,
        "output_tokens": 6,
    }


async def test_the_events_of_a_message_open_and_close_its_blocks() -> None:
    engine = await serve(ScriptedEngine(CALL))
    events = await ask_stream(engine, "/v1/messages", messages=chat("hi"), max_tokens=100, tools=MESSAGES_TOOLS)

    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["usage"]["input_tokens"] == len("[user]hi") - 2
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["text", "tool_use"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == "Wait."
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"city": "Rome"}
    assert sum(event["type"] == "content_block_stop" for event in events) == 2
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-1] == {"type": "message_stop"}


async def test_a_stop_sequence_is_told() -> None:
    engine = await serve(ScriptedEngine("one two"))
    _, answer = await ask(engine, "/v1/messages", messages=chat(), max_tokens=50, stop_sequences=["two"])

    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "two")


async def test_tool_results_are_turns_of_their_own() -> None:
    scripted = ScriptedEngine("x")
    messages = [
        *chat("hi"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "warm"}]},
    ]
    await ask(await serve(scripted), "/v1/messages", messages=messages, max_tokens=5)

    assert bytes(scripted.asked[0][0]) == b"[user]hi[assistant][tool]warm"


async def test_errors_of_messages_have_anthropics_shape() -> None:
    engine = await serve(ScriptedEngine("x"))

    status, answer = await ask(engine, "/v1/messages", messages=chat())
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert "max_tokens" in answer["error"]["message"]

    status, answer = await ask(engine, "/v1/messages", messages=chat(), max_tokens=5000)
    assert status == 400 and "1000" in answer["error"]["message"]


async def test_tokens_of_a_message_are_counted() -> None:
    _, answer = await ask(await serve(ScriptedEngine("x")), "/v1/messages/count_tokens", messages=chat("hi"))

    assert answer == {"input_tokens": len("[user]hi")}
