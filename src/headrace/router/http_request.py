"""A Starlette `Request` as an argument of a call to another deployment: made picklable once its body is at hand.

Starlette is looked for in `sys.modules` only: a process that has not imported it holds no requests.
"""

from __future__ import annotations

import asyncio
import copyreg
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ..exceptions import SerializationError

if TYPE_CHECKING:
    from starlette.requests import Request

PLAIN_SCOPE_KEYS = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "app_root_path",
    "headers",
    "client",
    "server",
    "path_params",
)
"""What of an ASGI scope is data about the request. The rest (app, router, state, extensions) belongs to the process."""

_installed = False


def install_request_pickling() -> None:
    """Teaches `pickle` (and with it cloudpickle) to take requests. Imports Starlette; does nothing the second time."""
    global _installed
    if not _installed:
        from starlette.requests import Request

        copyreg.pickle(Request, _reduce_request)
        _installed = True


def is_request(value: Any) -> bool:
    """Whether `value` is a Starlette request. Costs one look-up where Starlette is not even imported."""
    module = sys.modules.get("starlette.requests")
    return module is not None and isinstance(value, module.Request)


def needs_freezing(value: Any) -> bool:
    """Whether `value` is a request that has to go through `freeze_request` before it can be pickled."""
    module = sys.modules.get("starlette.requests")
    if module is None or not isinstance(value, module.Request):
        return False
    return not _installed or type(value) is not module.Request or not hasattr(value, "_body")


async def freeze_request(request: Request) -> Request:
    """Reads the rest of the request's body, so that the request can be pickled and sent to another deployment.

    Returns:
        The same request, or a plain copy where it was of a subclass of Starlette's.

    Raises:
        SerializationError: the body was already consumed with `request.stream()`.
    """
    from starlette.requests import Request

    install_request_pickling()
    try:
        body = await request.body()
    except RuntimeError as error:
        raise SerializationError(
            "the request's body was already consumed with request.stream(), so the request cannot be passed to another "
            "deployment. Read it with `await request.body()`, or pass on what you need of it."
        ) from error
    if type(request) is Request:
        return request
    return _build_request(_plain_scope(request.scope), body)


async def no_more_messages() -> NoReturn:
    """An ASGI `receive` for a request that is complete: there is nothing to come, so it waits to be cancelled."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable: nobody completes this future")


def _plain_scope(scope: Any) -> dict[str, Any]:
    return {key: scope[key] for key in PLAIN_SCOPE_KEYS if key in scope}


def _reduce_request(request: Request) -> tuple[Any, ...]:
    body = getattr(request, "_body", None)
    if body is None:
        raise SerializationError(
            "a Request can be pickled only after its body has been read: `await request.body()` first. "
            "(Passing it to a handle's `.remote()` does so by itself.)"
        )
    return _build_request, (_plain_scope(request.scope), bytes(body))


def _build_request(scope: dict[str, Any], body: bytes) -> Request:
    from starlette.requests import Request

    install_request_pickling()
    request: Request = Request(scope, no_more_messages)
    request._body = body
    return request
