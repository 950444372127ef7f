"""The answers that the proxy gives itself."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from headrace.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestTimeoutError,
)

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def json_answer(status: int, content: dict[str, Any], *extra: tuple[bytes, bytes]) -> Answer:
    body = msgspec.json.encode(content)
    return Answer(status, [_JSON, (b"content-length", b"%d" % len(body)), *extra], body)


def no_route(path: str, routes: dict[str, str]) -> Answer:
    known = ", ".join(routes) if routes else "none: no application is deployed"
    return json_answer(
        404, {"detail": f"no application has a route for {path!r}; routes: {known}", "routes": list(routes)}
    )


def too_large(limit: int) -> Answer:
    # Closing spares reading the rest of the body.
    return json_answer(413, {"detail": f"the body is longer than {limit} bytes"}, (b"connection", b"close"))


def raw_error(request_id: str) -> bytes:
    """A 500 as it goes over the socket, for when nothing but the socket is left to say it with."""
    answer = for_error(RuntimeError(), request_id)
    headers = [*answer.headers, (b"x-request-id", request_id.encode("latin-1")), (b"connection", b"close")]
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    return b"HTTP/1.1 500 Internal Server Error\r\n" + lines + b"\r\n" + answer.body


def for_error(error: Exception, request_id: str) -> Answer:
    """What the client hears when no replica answered."""
    if isinstance(error, BackPressureError):
        seconds = b"%d" % math.ceil(error.retry_after_s) if error.retry_after_s else b"1"
        return json_answer(
            error.status_code, {"detail": error.message, "request_id": request_id}, (b"retry-after", seconds)
        )
    if isinstance(error, DeploymentUnavailableError | ReplicaUnavailableError):
        return json_answer(503, {"detail": str(error), "request_id": request_id}, (b"retry-after", b"1"))
    if isinstance(error, RequestTimeoutError):
        return json_answer(408, {"detail": str(error), "request_id": request_id})
    return json_answer(500, {"detail": "the request could not be handled", "request_id": request_id})
