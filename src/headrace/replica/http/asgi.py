"""The ASGI application of an ingress class, per instance, and its lifespan."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ...exceptions import (
    BackPressureError,
    ConfigError,
    DeploymentUnavailableError,
    InvalidRequestError,
    ReplicaUnavailableError,
    RequestTimeoutError,
    StartupError,
)
from ...router.asgi_app_copy import copy_app, is_framework_app
from ...router.context import current
from ...router.ingress_app import BUILD_METHOD, ingress_app_of
from .errors import response_for_exception

ANSWERED_EXCEPTIONS = (
    BackPressureError,
    DeploymentUnavailableError,
    InvalidRequestError,
    ReplicaUnavailableError,
    RequestTimeoutError,
)
"""What a handle raises in an endpoint and a client is told with its own status, instead of the framework's 500."""

WEBSOCKET_TRY_AGAIN_LATER = 1013

_DEPARTING = {"type": "lifespan.shutdown"}


async def build_asgi_app(instance: Any) -> ASGIApp:
    """The application that answers HTTP and WebSocket requests to `instance`, whose constructor has run.

    Each call makes an application of its own, whose routes that are methods are bound to `instance`.

    Args:
        instance: of a class that was decorated with `ingress`.

    Raises:
        ConfigError: the class is no ingress, or what it built is no ASGI application.
        Exception: whatever the application's factory raises.
    """
    name = type(instance).__qualname__
    ingress_app = ingress_app_of(instance)
    if ingress_app is None:
        raise ConfigError(f"{name} is no ASGI ingress: decorate it with `ingress(app)`")
    build = getattr(instance, BUILD_METHOD, None)
    if build is not None:
        app = await _built(build)
    elif ingress_app.factory is not None:
        app = await _built(ingress_app.factory)
    else:
        app = copy_app(ingress_app.app) if is_framework_app(ingress_app.app) else ingress_app.app
    if not callable(app):
        raise ConfigError(f"the application of {name} must be callable as (scope, receive, send), not {app!r}")
    if is_framework_app(app) and "fastapi" in sys.modules:
        from .class_routes import as_application, bind_class_routes

        bind_class_routes(app, instance)
        app = as_application(app)
    if isinstance(app, Starlette):
        for exception in ANSWERED_EXCEPTIONS:
            app.exception_handlers.setdefault(exception, _answer_exception)
    application: ASGIApp = app
    return application


async def _built(factory: Any) -> Any:
    app = factory()
    return await app if inspect.isawaitable(app) else app


async def _answer_exception(connection: Request | WebSocket, exc: Exception) -> Response | None:
    if isinstance(connection, WebSocket):
        await connection.close(WEBSOCKET_TRY_AGAIN_LATER)
        return None
    context = current()
    encoded = response_for_exception(exc, context.request_id if context is not None else "")
    response = Response(encoded.body, encoded.status)
    response.raw_headers = encoded.headers
    return response


class LifespanRunner:
    """An ASGI application together with its lifespan; itself the application to send requests to.

    ```python
    served = LifespanRunner(await build_asgi_app(instance))
    await served.startup()
    await served(scope, receive, send)  # any number of times
    await served.shutdown()
    ```

    Attributes:
        app: the application.
        state: what its lifespan yielded; each request gets a copy as `scope["state"]` (ASGI lifespan protocol 2.0).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.state:
            scope["state"] = self.state.copy()
        await self.app(scope, receive, send)

    async def startup(self) -> None:
        """Runs the application's start-up. An application that knows no lifespan is left alone.

        Raises:
            StartupError: the start-up failed; the message carries the application's reason.
        """
        self._task = asyncio.create_task(self._run(), name="lifespan")
        answer = await self._exchange({"type": "lifespan.startup"})
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            await asyncio.wait([self._task])
            raise StartupError(f"the application's lifespan failed to start: {_last_line(answer)}") from _raised(
                self._task
            )

    async def shutdown(self) -> None:
        """Runs the application's shut-down, once; without effect if it was never started.

        Raises:
            RuntimeError: the shut-down failed; the message carries the application's reason.
        """
        task, self._task = self._task, None
        if task is None or task.done():
            return
        self._task = task
        try:
            answer = await self._exchange(_DEPARTING)
            await asyncio.wait([task])
        finally:
            task.cancel()
            self._task = None
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            raise RuntimeError(f"the application's lifespan failed to shut down: {_last_line(answer)}") from _raised(
                task
            )

    async def _run(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self.app(scope, self._events.get, self._answers.put)

    async def _exchange(self, event: Message) -> Message | None:
        """Sends an event; returns the answer, or None if the application ended without one."""
        assert self._task is not None
        self._events.put_nowait(event)
        getting = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait([getting, self._task], return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            if not self._task.cancelled():
                # An application that knows no lifespan raises; that is no failure (ASGI lifespan protocol).
                self._task.exception()
            return None if self._answers.empty() else self._answers.get_nowait()
        finally:
            getting.cancel()


def _raised(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _last_line(answer: Message) -> str:
    """The exception of the traceback that frameworks send as message."""
    lines = str(answer.get("message", "")).strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
