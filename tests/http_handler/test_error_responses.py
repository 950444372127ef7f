"""What a client is told when handling its request raised."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import HTTPException as FastAPIHTTPException
from starlette.exceptions import HTTPException

from headrace.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    InvalidRequestError,
    ReplicaUnavailableError,
    RequestCancelledError,
    RequestTimeoutError,
)
from headrace.replica.http import error_response, response_for_exception


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (InvalidRequestError(422, [{"loc": ["body"]}]), 422),
        (HTTPException(418, "teapot"), 418),
        (BackPressureError(10, 10), 503),
        (BackPressureError(10, 10, status_code=429), 429),
        (DeploymentUnavailableError("gone"), 503),
        (ReplicaUnavailableError("died"), 503),
        (RequestTimeoutError("late"), 408),
        (TimeoutError(), 408),
        (RequestCancelledError("r1"), 499),
        (asyncio.CancelledError(), 499),
        (ValueError("secret"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_known_exceptions_have_their_own_status(exception: BaseException, status: int) -> None:
    response = response_for_exception(exception, "r1")
    assert response.status == status
    assert json.loads(bytes(response.body))["request_id"] == "r1"
    assert dict(response.headers)[b"content-length"] == b"%d" % len(response.body)


def test_a_users_exception_shows_neither_its_text_nor_its_type() -> None:
    try:
        raise ValueError("the database password is hunter2")
    except ValueError as error:
        body = bytes(response_for_exception(error, "r1").body).decode()
    assert "hunter2" not in body and "ValueError" not in body and "Traceback" not in body
    assert "log" in body


@pytest.mark.parametrize(("asked", "header"), [(None, b"1"), (0.2, b"1"), (2.5, b"3"), (-1, b"0")])
def test_retry_after_is_in_whole_seconds_rounded_up(asked: float | None, header: bytes) -> None:
    response = response_for_exception(BackPressureError(1, 1, retry_after_s=asked), "r1")
    assert dict(response.headers)[b"retry-after"] == header


def test_an_http_exception_keeps_detail_and_headers() -> None:
    error = FastAPIHTTPException(401, {"why": "no token"}, headers={"WWW-Authenticate": "Bearer"})
    response = response_for_exception(error, "r1")
    assert json.loads(bytes(response.body)) == {"detail": {"why": "no token"}, "request_id": "r1"}
    assert dict(response.headers)[b"www-authenticate"] == b"Bearer"


def test_a_detail_that_is_no_json_does_not_hide_the_status() -> None:
    response = response_for_exception(FastAPIHTTPException(400, object()), "r1")
    assert response.status == 400


def test_a_status_without_a_body_gets_none() -> None:
    response = error_response(304, "not modified", "r1", [(b"etag", b"x")])
    assert (response.body, response.headers) == (b"", [(b"etag", b"x")])
