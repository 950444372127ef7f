"""Errors as HTTP responses. What a client may see is decided here: never a traceback, never an exception's text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from starlette.exceptions import HTTPException

from ...exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    InvalidRequestError,
    ReplicaUnavailableError,
    RequestCancelledError,
    SerializationError,
)
from .json_encoding import encode_json
from .results import EncodedResponse

JSON = (b"content-type", b"application/json")
STATUSES_WITHOUT_BODY = frozenset({204, 205, 304})
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that went away before its answer."""

DEFAULT_RETRY_AFTER_S = 1.0


def error_response(
    status: int, detail: Any, request_id: str, extra_headers: Iterable[tuple[bytes, bytes]] = ()
) -> EncodedResponse:
    """A response whose body is `{"detail": ..., "request_id": ...}`.

    Args:
        status: HTTP status code, 4xx or 5xx. Statuses that have no body get none.
        detail: JSON-able; what went wrong, in words or in FastAPI's list of validation errors.
        request_id: names the request in the replica's log.
        extra_headers: names in lower case.
    """
    if status < 200 or status in STATUSES_WITHOUT_BODY:
        return EncodedResponse(status, list(extra_headers), b"")
    try:
        body = encode_json({"detail": detail, "request_id": request_id})
    except SerializationError:
        # An HTTPException of the user's may carry anything; its status must reach the client all the same.
        body = encode_json({"detail": str(detail), "request_id": request_id})
    return EncodedResponse(status, [JSON, (b"content-length", b"%d" % len(body)), *extra_headers], body)


def response_for_exception(exc: BaseException, request_id: str) -> EncodedResponse:
    """The answer to a request whose handling raised.

    | exception | status |
    | --- | --- |
    | `InvalidRequestError` | its own |
    | `HTTPException` of Starlette or FastAPI | its own, with its detail and headers |
    | `BackPressureError` | its own (503 or 429), with `Retry-After` |
    | `DeploymentUnavailableError`, `ReplicaUnavailableError` | 503 |
    | `TimeoutError`, so also `RequestTimeoutError` | 408, as Ray Serve answers |
    | `RequestCancelledError`, `asyncio.CancelledError` | 499 |
    | anything else | 500, and the client learns where the traceback is |
    """
    if isinstance(exc, InvalidRequestError):
        return error_response(exc.status_code, exc.detail, request_id, _extra_headers(exc))
    if isinstance(exc, HTTPException):
        return error_response(exc.status_code, exc.detail, request_id, _extra_headers(exc))
    if isinstance(exc, BackPressureError):
        return error_response(exc.status_code, exc.message, request_id, [retry_after(exc.retry_after_s)])
    if isinstance(exc, DeploymentUnavailableError):
        return error_response(503, str(exc) or "the deployment is unavailable", request_id, [retry_after(None)])
    if isinstance(exc, ReplicaUnavailableError):
        return error_response(503, "the replica that worked on this request is gone", request_id, [retry_after(None)])
    if isinstance(exc, TimeoutError):
        return error_response(408, "the request timed out", request_id)
    if isinstance(exc, RequestCancelledError | asyncio.CancelledError):
        return error_response(CLIENT_CLOSED_REQUEST, "the request was cancelled", request_id)
    return error_response(
        500, "Internal Server Error. The traceback is in the replica's log, under this request id.", request_id
    )


def retry_after(seconds: float | None) -> tuple[bytes, bytes]:
    """The `Retry-After` header: whole seconds, rounded up so that nobody comes too early (RFC 9110, 10.2.3)."""
    return (b"retry-after", b"%d" % max(0, math.ceil(DEFAULT_RETRY_AFTER_S if seconds is None else seconds)))


def _extra_headers(exc: BaseException) -> list[tuple[bytes, bytes]]:
    headers = getattr(exc, "headers", None) or {}
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
