"""Anthropic's API, `/v1/messages`, by translation to a chat and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.anthropic_input import chat_messages, chat_tool_choice, chat_tools
from headrace.llm.generation.anthropic_stream import MessageStream
from headrace.llm.generation.chat_call import ChatEndpoint, chat_request, chat_with, chunks_of, error_of
from headrace.llm.generation.event_format import named_event
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import parse

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class MessagesRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/messages`; `/v1/messages/count_tokens` has the same without `max_tokens`."""

    messages: list[dict[str, Any]]
    max_tokens: int | None = None
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None


def _as_chat(fields: MessagesRequest) -> dict[str, Any]:
    """The body of the chat."""
    body: dict[str, Any] = {"messages": chat_messages(fields.system, fields.messages)}
    names = ("model", "temperature", "top_p", "top_k", "seed", "ignore_eos", "max_tokens")
    chat_with(body, {**{name: name for name in names}, "stop_sequences": "stop"}, fields)
    if fields.tools:
        body["tools"] = chat_tools(fields.tools)
        if fields.tool_choice is not None:
            body["tool_choice"] = chat_tool_choice(fields.tool_choice)
            if fields.tool_choice.get("disable_parallel_tool_use"):
                body["parallel_tool_calls"] = False
    if fields.messages and fields.messages[-1].get("role") == "assistant":
        # Anthropic's way to begin the answer.
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    if fields.stream:
        body["stream"] = True
        # The first event tells the tokens of the prompt.
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body


async def answer_messages(chat: ChatEndpoint, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/messages`; errors too have Anthropic's shape."""
    try:
        fields = parse(request.body, MessagesRequest)
        if fields.max_tokens is None:
            raise RequestError("max_tokens: this field is required", "max_tokens")
        answer = await chat(chat_request(request, _as_chat(fields)))
        if answer.status != 200:
            raise error_of(answer)
    except RequestError as error:
        return _error_answer(error)
    stream = MessageStream(f"msg_{request.request_id}", fields.model or "")
    if not isinstance(answer.body, bytes):
        return EngineResponse(200, _events(answer.body, stream), "text/event-stream", usage=answer.usage)
    whole = msgspec.json.decode(answer.body)
    stream.message["model"] = whole["model"]
    (choice,) = whole["choices"]
    calls = choice["message"].get("tool_calls") or ()
    stream.delta({"content": choice["message"]["content"], "tool_calls": calls})
    stream.end(choice, whole["usage"])
    return EngineResponse(200, msgspec.json.encode(stream.message), usage=answer.usage)


async def _events(body: AsyncGenerator[bytes, None], stream: MessageStream) -> AsyncGenerator[bytes, None]:
    last, usage, begun = {"finish_reason": "stop"}, None, False
    chunks = chunks_of(body)
    try:
        async for chunk in chunks:
            ready = b""
            if not begun:
                begun = True
                stream.message["model"] = chunk["model"]
                ready = stream.begin(chunk.get("usage"))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                ready += stream.delta(choice["delta"])
                if choice["finish_reason"]:
                    last = choice
            if ready:
                yield ready
        yield stream.end(last, usage)
    except RequestError as error:
        yield named_event("error", _error_json(error))
    finally:
        await chunks.aclose()


async def answer_count_tokens(tokenize: ChatEndpoint, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/messages/count_tokens`.

    Args:
        tokenize: answers `/tokenize`.
    """
    try:
        fields = parse(request.body, MessagesRequest)
        chat = _as_chat(fields)
        names = ("messages", "tools", "model", "continue_final_message", "add_generation_prompt")
        wanted = {name: chat[name] for name in names if name in chat}
        answer = await tokenize(chat_request(request, wanted))
        if answer.status != 200:
            raise error_of(answer)
    except RequestError as error:
        return _error_answer(error)
    assert isinstance(answer.body, bytes)
    count = msgspec.json.decode(answer.body)["count"]
    return EngineResponse(200, msgspec.json.encode({"input_tokens": count}))


def _error_json(error: RequestError) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _error_answer(error: RequestError) -> EngineResponse:
    return EngineResponse(error.status, msgspec.json.encode(_error_json(error)))
