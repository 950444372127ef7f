"""From Python calls to the API's requests and back: `handle.chat.remote({...})` in place of a POST."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from headrace.exceptions import ConfigError
from headrace.llm.engines.protocol import EngineResponse
from headrace.llm.request_error import LLMRequestError

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
    "score": "/v1/score",
    "rerank": "/v1/rerank",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
"""The path of the API that a method of `LLMServer` stands for."""


class WholeAnswer(dict[str, Any]):
    """An answer that came at once. Where the handle streams, the one item of its stream."""

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        yield dict(self)


def request_body(request: Mapping[str, Any] | BaseModel, model_id: str) -> bytes:
    """The JSON of a request; without `model` it gets this one.

    Raises:
        ConfigError: it is neither a mapping nor a pydantic model.
    """
    if isinstance(request, BaseModel):
        fields = request.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    elif isinstance(request, Mapping):
        fields = dict(request)
    else:
        raise ConfigError(f"a request is a dict or a pydantic model with the API's fields, not {request!r}")
    fields["model"] = fields.get("model") or model_id
    return msgspec.json.encode(fields)


async def answer_of(response: EngineResponse) -> WholeAnswer | AsyncGenerator[dict[str, Any], None]:
    """An answer as Python values: a dict, or a generator of one dict per server-sent event.

    Raises:
        LLMRequestError: it is an error.
    """
    if not isinstance(response.body, bytes):
        return _events(response.body)
    body = msgspec.json.decode(response.body) if response.body else {}
    if response.status >= 400:
        error = body.get("error", body) if isinstance(body, dict) else {"message": str(body)}
        raise LLMRequestError(response.status, error)
    return WholeAnswer(body)


async def _events(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    rest = b""
    try:
        async for piece in pieces:
            *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
                if data and data != b"[DONE]":
                    yield msgspec.json.decode(data)
    finally:
        await pieces.aclose()
