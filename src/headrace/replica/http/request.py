"""The Starlette `Request` that a handler gets."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import Receive

from ...router.http_request import install_request_pickling, no_more_messages

# Handlers pass their request on to other deployments.
install_request_pickling()


def request_from(scope: dict[str, Any], body: bytes | None, receive: Receive | None = None) -> Request:
    """A request over an ASGI scope.

    Args:
        scope: an ASGI HTTP scope.
        body: the whole body if it is at hand: then `body()`, `json()`, `form()` and `stream()` of the request answer
            from it and never wait. None: the body comes through `receive`.
        receive: the ASGI channel. Without it the request never sees a disconnect.
    """
    request: Request = Request(scope, no_more_messages if receive is None else receive)
    if body is not None:
        request._body = body
    return request
