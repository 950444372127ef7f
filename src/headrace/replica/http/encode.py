"""What a handler returned, as an HTTP response."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from ...exceptions import SerializationError
from .json_encoding import encode_json
from .results import ASGIResult, EncodedResponse, Result, StreamingResult

TEXT = (b"content-type", b"text/plain; charset=utf-8")
PLAIN = (b"content-type", b"text/plain")
JSON = (b"content-type", b"application/json")

# A memo of what to do with a type; classes that are made per request must not make it grow without end.
_MAX_KNOWN_TYPES = 1024


def encode_result(value: Any) -> Result:
    """Turns a handler's return value into what goes out over HTTP.

    - `str`: `text/plain; charset=utf-8`. `bytes`, `bytearray`, `memoryview`: `text/plain`, as Ray Serve sends them
      (return a `Response` with a `media_type` for another). `None`: an empty `text/plain` body.
    - A Starlette or FastAPI response: its status, headers and body. One that is more than these (a file, an event
      source, a subclass with its own `__call__`) is to be run as an ASGI application.
    - A generator, async generator or other iterator: streamed. Text is encoded as UTF-8, bytes go as they are, anything
      else becomes a line of JSON.
    - Everything else: JSON, see `encode_json`.

    Raises:
        SerializationError: no form of response fits; the message names the type and the path to the part.
    """
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        encoder = _encoder_for(type(value))
    return encoder(value)


def _encode_str(value: str) -> EncodedResponse:
    try:
        body = value.encode()
    except UnicodeEncodeError as error:
        raise SerializationError(
            f"result: this text is not valid Unicode and cannot be sent as UTF-8 ({error.reason})"
        ) from None
    return EncodedResponse(200, [TEXT, (b"content-length", b"%d" % len(body))], body)


def _encode_bytes(value: bytes) -> EncodedResponse:
    return EncodedResponse(200, [PLAIN, (b"content-length", b"%d" % len(value))], value)


def _encode_buffer(value: bytearray | memoryview) -> EncodedResponse:
    return _encode_bytes(bytes(value))


def _encode_none(value: None) -> EncodedResponse:
    return EncodedResponse(200, [PLAIN, (b"content-length", b"0")], b"")


def _encode_json(value: Any) -> EncodedResponse:
    body = encode_json(value)
    return EncodedResponse(200, [JSON, (b"content-length", b"%d" % len(body))], body)


def _encode_pydantic(value: Any) -> EncodedResponse:
    try:
        body: bytes = value.__pydantic_serializer__.to_json(value, by_alias=True)
    except Exception as error:
        raise SerializationError(f"result: cannot turn {type(value)} into JSON: {error}") from error
    return EncodedResponse(200, [JSON, (b"content-length", b"%d" % len(body))], body)


def _encode_response(value: Response) -> EncodedResponse:
    return EncodedResponse(value.status_code, value.raw_headers, value.body, value.background)


def _encode_streaming_response(value: StreamingResponse) -> StreamingResult:
    return StreamingResult(value.status_code, value.raw_headers, value.body_iterator, value.background, value.charset)


def _encode_iterator(value: Any) -> StreamingResult:
    return StreamingResult(200, [TEXT], value)


def _encode_asgi(value: Any) -> ASGIResult:
    return ASGIResult(value)


_Encoder = Callable[[Any], Result]

_ENCODERS: dict[type, _Encoder] = {
    str: _encode_str,
    bytes: _encode_bytes,
    bytearray: _encode_buffer,
    memoryview: _encode_buffer,
    type(None): _encode_none,
    dict: _encode_json,
    list: _encode_json,
    tuple: _encode_json,
    int: _encode_json,
    float: _encode_json,
    bool: _encode_json,
    StreamingResponse: _encode_streaming_response,
}


def _encoder_for(kind: type) -> _Encoder:
    encoder = _choose_encoder(kind)
    if len(_ENCODERS) < _MAX_KNOWN_TYPES:
        _ENCODERS[kind] = encoder
    return encoder


def _choose_encoder(kind: type) -> _Encoder:
    if issubclass(kind, Response):
        if kind.__call__ is Response.__call__:
            return _encode_response
        if issubclass(kind, StreamingResponse) and (kind.__call__, kind.stream_response) == (
            StreamingResponse.__call__,
            StreamingResponse.stream_response,
        ):
            return _encode_streaming_response
        return _encode_asgi
    if issubclass(kind, str):
        return _encode_str
    if issubclass(kind, bytes):
        return _encode_bytes
    if hasattr(kind, "__pydantic_serializer__"):
        return _encode_pydantic
    # A file is an iterator over its lines: returning one is a mistake more often than a stream.
    if (issubclass(kind, AsyncIterable) or issubclass(kind, Iterator)) and not issubclass(kind, os.PathLike):
        return _encode_iterator
    return _encode_json
