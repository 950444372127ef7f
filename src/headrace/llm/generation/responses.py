"""OpenAI's newer API, `/v1/responses`, by translation to a chat and back. Nothing is stored between requests."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.chat_call import ChatEndpoint, chat_request, chat_with, chunks_of
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import parse
from headrace.llm.generation.responses_input import chat_messages, chat_tool_choice, chat_tools
from headrace.llm.generation.responses_stream import ResponseStream


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/responses`."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    background: bool | None = False
    truncation: str | None = None
    user: str | None = None
    seed: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None


_SAME_NAMES = (
    "model", "temperature", "top_p", "parallel_tool_calls", "seed", "top_k", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "stop", "ignore_eos",
)  # fmt: skip


def _as_chat(fields: ResponsesRequest) -> dict[str, Any]:
    """The body of the chat."""
    if fields.previous_response_id is not None:
        raise RequestError(
            "previous_response_id: responses are not stored here; send the earlier turns in `input`",
            "previous_response_id",
        )
    if fields.background:
        raise RequestError("background: responses are not stored here, so they cannot be fetched later", "background")
    body: dict[str, Any] = {"messages": chat_messages(fields.instructions, fields.input)}
    chat_with(body, {**{name: name for name in _SAME_NAMES}, "max_output_tokens": "max_completion_tokens"}, fields)
    if fields.tools:
        body["tools"] = chat_tools(fields.tools)
        if fields.tool_choice is not None:
            body["tool_choice"] = chat_tool_choice(fields.tool_choice)
    form = (fields.text or {}).get("format") or {"type": "text"}
    if form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") != "text":
        body["response_format"] = form
    if fields.reasoning and fields.reasoning.get("effort"):
        body["reasoning_effort"] = fields.reasoning["effort"]
    if fields.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _frame(fields: ResponsesRequest, request_id: str) -> dict[str, Any]:
    """What a response says besides its output."""
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "model": fields.model or "",
        "output": [],
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": fields.reasoning,
        "store": False,
        "temperature": 1.0 if fields.temperature is None else fields.temperature,
        "text": fields.text or {"format": {"type": "text"}},
        "tool_choice": fields.tool_choice or "auto",
        "tools": fields.tools or [],
        "top_p": 1.0 if fields.top_p is None else fields.top_p,
        "truncation": fields.truncation or "disabled",
        "usage": None,
        "user": fields.user,
    }


async def answer_responses(chat: ChatEndpoint, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/responses`.

    Raises:
        RequestError: something of the request is wrong.
    """
    fields = parse(request.body, ResponsesRequest)
    answer = await chat(chat_request(request, _as_chat(fields)))
    if answer.status != 200:
        return answer
    stream = ResponseStream(_frame(fields, request.request_id))
    if not isinstance(answer.body, bytes):
        return EngineResponse(200, _events(answer.body, stream), "text/event-stream", usage=answer.usage)
    whole = msgspec.json.decode(answer.body)
    stream.response["model"] = whole["model"]
    (choice,) = whole["choices"]
    message = choice["message"]
    calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls") or ())]
    stream.delta({"content": message["content"], "tool_calls": calls})
    stream.end(choice["finish_reason"], whole["usage"])
    return EngineResponse(200, msgspec.json.encode(stream.response), usage=answer.usage)


async def _events(body: AsyncGenerator[bytes, None], stream: ResponseStream) -> AsyncGenerator[bytes, None]:
    yield stream.begin()
    finish_reason, usage = "stop", None
    chunks = chunks_of(body)
    try:
        async for chunk in chunks:
            stream.response["model"] = chunk["model"]
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                ready = stream.delta(choice["delta"])
                finish_reason = choice["finish_reason"] or finish_reason
                if ready:
                    yield ready
        yield stream.end(finish_reason, usage)
    except RequestError as error:
        yield stream.fail(error.message)
    finally:
        await chunks.aclose()
