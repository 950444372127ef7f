"""Answers of the front as ASGI messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from headrace.llm.api.errors import ApiError, error_body, is_anthropic
from headrace.llm.engines.protocol import EngineRequest, EngineResponse

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

RawHeaders = list[tuple[bytes, bytes]]

_STREAM_HEADERS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the tokens
]


def raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    """Headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def start_stream(send: Send, response: EngineResponse, extra: RawHeaders) -> None:
    """The head of an answer whose body comes in pieces."""
    if response.media_type == "text/event-stream":
        headers = list(_STREAM_HEADERS)
    else:
        headers = [(b"content-type", response.media_type.encode("latin-1"))]
    headers += raw_headers(response.headers)
    headers += extra
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def send_whole(
    send: Send, response: EngineResponse, body: bytes, request: EngineRequest, extra: RawHeaders
) -> None:
    """An answer that is there at once."""
    if response.status >= 400 and is_anthropic(request.path):
        body = _in_anthropic_shape(body, response.status, request.request_id)
    headers = [
        (b"content-type", response.media_type.encode("latin-1")),
        (b"content-length", b"%d" % len(body)),
        *raw_headers(response.headers),
        *extra,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: ApiError, path: str, request_id: str) -> None:
    """An error, in the shape of the API that `path` belongs to."""
    await _send_json_bytes(send, error.status, error_body(error, path, request_id), raw_headers(error.headers))


async def send_json(send: Send, content: Any) -> None:
    """Status 200 and JSON."""
    await _send_json_bytes(send, 200, msgspec.json.encode(content), [])


async def _send_json_bytes(send: Send, status: int, body: bytes, extra: RawHeaders) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _in_anthropic_shape(body: bytes, status: int, request_id: str) -> bytes:
    """An engine's error in Anthropic's shape, which it has already where the engine knows that API itself."""
    try:
        content = msgspec.json.decode(body)
        if content.get("type") == "error":
            return body
        message = str(content["error"]["message"])
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return error_body(ApiError(status, message), "/v1/messages", request_id)


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """There is nothing to start or to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
