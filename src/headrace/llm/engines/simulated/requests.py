"""Requests that the simulated engine takes, and what may be wrong with them."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from headrace.llm.api.errors import ApiError

DEFAULT_COMPLETION_TOKENS = 16
MAX_CHOICES = 128


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Sampled(msgspec.Struct, kw_only=True):
    """What chats and completions have in common."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | int | None = None
    response_format: dict[str, Any] | None = None


class ChatRequest(Sampled):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tool_choice: str | dict[str, Any] | None = None


class CompletionRequest(Sampled):
    prompt: str | list[str | int | list[int]]
    echo: bool = False


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    input: str | list[str | int | list[int]]
    model: str = ""
    dimensions: int | None = None
    encoding_format: str = "float"


class TokenizeRequest(msgspec.Struct, kw_only=True):
    model: str = ""
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str = ""


Request = TypeVar("Request")

_PLACE = re.compile(r"^(?P<text>.*) - at `\$\.(?P<field>\w+)(?P<rest>.*)`$")


def read(body: bytes, kind: type[Request]) -> Request:
    """A request from its JSON.

    Raises:
        ApiError: 400; names the field.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        if found is not None:
            place = found["field"] + found["rest"]
            raise ApiError(400, f"{place}: {found['text']}", code="invalid_value", param=place) from None
        missing = re.search(r"missing required field `(\w+)`", str(error))
        if missing is not None:
            message = f"{missing[1]}: this field is required"
            raise ApiError(400, message, code="missing_required_parameter", param=missing[1]) from None
        raise ApiError(400, str(error), code="invalid_request") from None
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from None


def check(request: Sampled) -> None:
    """
    Raises:
        ApiError: 400: a value is out of range, or asks for what only a model can do.
    """
    if request.n is not None and not 1 <= request.n <= MAX_CHOICES:
        raise _wrong("n", f"must be from 1 to {MAX_CHOICES}, not {request.n}")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name, None)
        if value is not None and value < 1:
            raise _wrong(name, f"must be at least 1, not {value}")
    if request.logprobs not in (None, False, 0):
        raise _wrong("logprobs", _NO_MODEL)
    if request.response_format is not None and request.response_format.get("type") not in ("text", None):
        raise _wrong("response_format", _NO_MODEL)
    choice = getattr(request, "tool_choice", None)
    if choice not in (None, "auto", "none"):
        raise _wrong("tool_choice", _NO_MODEL)


_NO_MODEL = "the simulated engine has no model to do this; leave it out, or use another llm_engine"


def _wrong(param: str, text: str) -> ApiError:
    return ApiError(400, f"{param}: {text}", code="invalid_value", param=param)


def stops_of(request: Sampled) -> list[str]:
    stop = request.stop
    return [stop] if isinstance(stop, str) else [text for text in stop or [] if text]


def chat_prompt(messages: list[dict[str, Any]]) -> str:
    """A chat as one text.

    Raises:
        ApiError: 400: a message has something else than text.
    """
    if not messages:
        raise _wrong("messages", "must have at least one message")
    lines = []
    for position, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            if any(not isinstance(part, str) for part in parts):
                raise _wrong(f"messages[{position}].content", "the simulated engine reads text alone")
            content = "".join(str(part) for part in parts)
        elif content is not None and not isinstance(content, str):
            raise _wrong(f"messages[{position}].content", "must be a string or a list of parts")
        lines.append(f"{message.get('role', 'user')}: {content or ''}\n")
    return "".join(lines)
