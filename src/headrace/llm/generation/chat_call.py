"""Calling a chat endpoint from another API's: for what is translated to chats and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.request_error import RequestError

ChatEndpoint = Callable[[EngineRequest], Awaitable[EngineResponse]]
"""Answers `/v1/chat/completions`, of any engine; errors are answers too."""


def chat_request(request: EngineRequest, body: dict[str, Any]) -> EngineRequest:
    """The same request, to the chat endpoint."""
    return replace(request, path="/v1/chat/completions", body=msgspec.json.encode(body))


def error_of(answer: EngineResponse) -> RequestError:
    """The error that a chat was answered with."""
    body = answer.body if isinstance(answer.body, bytes) else b"{}"
    error = msgspec.json.decode(body).get("error", {})
    return RequestError(
        str(error.get("message", "The model did not answer")),
        error.get("param"),
        status=answer.status,
        type=str(error.get("type", "server_error")),
        code=error.get("code"),
    )


async def chunks_of(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a streamed chat, without the last `[DONE]`.

    Raises:
        RequestError: the stream told an error.
    """
    rest = b""
    async with aclosing(events):
        async for part in events:
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                chunk = msgspec.json.decode(data)
                if "error" in chunk:
                    raise error_of(EngineResponse(500, data))
                yield chunk


def chat_with(body: dict[str, Any], names: dict[str, str], given: msgspec.Struct) -> dict[str, Any]:
    """Copy fields that have a value.

    Args:
        body: of the chat; changed and returned.
        names: of the other API's fields, with those of the chat's.
        given: the other API's request.
    """
    for name, chat_name in names.items():
        value = getattr(given, name)
        if value is not None:
            body[chat_name] = value
    return body
