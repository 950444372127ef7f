"""What travels in the headers of data calls, between whoever routes a request and the replica that runs it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

NO_ONGOING: Final = bytes(4)


class CallHeader(msgspec.Struct, array_like=True, gc=False):
    """A call of a method through a handle. `timeout_s`: seconds left, None for no limit. `trace`: the context of the
    caller's span, b"" where it traces nothing."""

    method: str
    request_id: str
    route: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    timeout_s: float | None = None
    trace: bytes = b""


class HttpHeader(msgspec.Struct, array_like=True, gc=False):
    """An HTTP request or a WebSocket handshake; the body travels as the payload, or as chunks.

    `path` is decoded and complete; `root_path` is the part of it that the application does not see (the server's root
    path and the application's route prefix). `complete` says that the payload is the whole body. `trace`: the context
    of the proxy's span, b"" where it traces nothing.
    """

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    request_id: str
    route: str
    root_path: str = ""
    http_version: str = "1.1"
    scheme: str = "http"
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    multiplexed_model_id: str = ""
    session_id: str = ""
    timeout_s: float | None = None
    subprotocols: list[str] = []
    trace: bytes = b""


class HttpResponseHeader(msgspec.Struct, array_like=True, gc=False):
    status: int
    headers: list[tuple[bytes, bytes]]


class ErrorHeader(msgspec.Struct, array_like=True, gc=False):
    """An exception of user code, or of ours, on the way back; the payload is the pickled exception, or empty."""

    kind: str
    message: str
    traceback: str = ""


encode: Final = msgspec.msgpack.Encoder().encode
decode_call: Final = msgspec.msgpack.Decoder(CallHeader).decode
decode_http: Final = msgspec.msgpack.Decoder(HttpHeader).decode
decode_http_response: Final = msgspec.msgpack.Decoder(HttpResponseHeader).decode
decode_error: Final = msgspec.msgpack.Decoder(ErrorHeader).decode

encode_message: Final = encode
decode_message: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode
"""ASGI messages of a WebSocket, as they stand in the specification."""


def with_ongoing(ongoing: int, rest: bytes = b"") -> bytes:
    """Every answer's header starts with the number of requests that the replica works on: 4 bytes, little-endian."""
    return ongoing.to_bytes(4, "little") + rest
