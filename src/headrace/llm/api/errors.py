"""Errors as clients of OpenAI's and of Anthropic's API expect them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping

import msgspec

from headrace.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    HeadraceError,
    ReplicaUnavailableError,
    RequestCancelledError,
)

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that went away before its answer."""

OVERLOADED_HEADER = "x-headrace-overloaded"
"""Of answers of a replica that has too many requests: another one may have room."""

_OPENAI_TYPES = {429: "rate_limit_error", 408: "timeout_error", 503: "service_unavailable_error"}

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class ApiError(HeadraceError):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        message: what was wrong and what would be right, for the client to read.
        code: the short name that programs go by ("model_not_found"); None for none.
        param: the field of the request that is wrong; None where it is none in particular.
        headers: of the answer: `retry-after` and the like.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}

    def __str__(self) -> str:
        return self.message

    @property
    def openai_type(self) -> str:
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return _OPENAI_TYPES.get(self.status, default)

    @property
    def anthropic_type(self) -> str:
        default = "invalid_request_error" if self.status < 500 else "api_error"
        return _ANTHROPIC_TYPES.get(self.status, default)


def openai_body(error: ApiError) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return msgspec.json.encode({"error": _openai_error(error)})


def anthropic_body(error: ApiError, request_id: str) -> bytes:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": error.anthropic_type, "message": error.message},
            "request_id": request_id,
        }
    )


def is_anthropic(path: str) -> bool:
    """Whether clients of this path expect Anthropic's shapes."""
    return path.startswith("/v1/messages")


def error_body(error: ApiError, path: str, request_id: str) -> bytes:
    """The body of an error, in the shape of the API that `path` belongs to."""
    return anthropic_body(error, request_id) if is_anthropic(path) else openai_body(error)


def error_events(error: ApiError, path: str, request_id: str) -> bytes:
    """What ends a stream that had begun: the clients of each API raise at these events."""
    if is_anthropic(path):
        return b"event: error\ndata: " + anthropic_body(error, request_id) + b"\n\n"
    if path == "/v1/responses":
        event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
    return b"data: " + openai_body(error) + b"\n\ndata: [DONE]\n\n"


def _openai_error(error: ApiError) -> dict[str, str | None]:
    return {"message": error.message, "type": error.openai_type, "param": error.param, "code": error.code}


def error_for(exception: BaseException) -> ApiError | None:
    """What the client hears of an exception; None for one that nobody foresaw: a 500, and for the log."""
    if isinstance(exception, ApiError):
        return exception
    if isinstance(exception, BackPressureError):
        return ApiError(
            exception.status_code,
            f"the model is overloaded: {exception.num_queued_requests} requests wait already; try again later",
            code="overloaded",
            headers=retry_after(exception.retry_after_s),
        )
    if isinstance(exception, DeploymentUnavailableError):
        return ApiError(503, f"the model is not available: {exception}", code="unavailable", headers=retry_after(None))
    if isinstance(exception, ReplicaUnavailableError):
        message = "the replica that worked on this request is gone; send the request again"
        return ApiError(503, message, code="replica_lost", headers=retry_after(None))
    if isinstance(exception, TimeoutError):
        return ApiError(408, "the request was not answered before its deadline", code="timeout")
    if isinstance(exception, RequestCancelledError):
        return ApiError(CLIENT_CLOSED_REQUEST, "the request was cancelled", code="cancelled")
    return None


def internal_error(request_id: str) -> ApiError:
    """The answer to what nobody foresaw: the client learns where the traceback is."""
    return ApiError(
        500, f"internal error; the log of the server has its traceback under {request_id}", code="internal_error"
    )


def retry_after(seconds: float | None) -> dict[str, str]:
    """The `retry-after` header: whole seconds, rounded up so that nobody comes too early (RFC 9110, 10.2.3)."""
    return {"retry-after": str(max(1, math.ceil(1.0 if seconds is None else seconds)))}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at what may have been meant, or at what there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(repr(known_name) for known_name in names[:10])
    return f"there are: {shown}{', …' if len(names) > 10 else ''}"
