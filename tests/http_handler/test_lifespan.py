"""An application's lifespan runs around the time in which it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse

from headrace.exceptions import StartupError
from headrace.replica.http.asgi import LifespanRunner


def app_with_lifespan(events: list[str], fail: str = "") -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        events.append("start")
        if fail == "start":
            raise ValueError("weights are missing")
        yield {"model": "v1"}
        events.append("stop")
        if fail == "stop":
            raise ValueError("cannot flush")

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def root(request: Request) -> str:
        request.state.mine = hasattr(request.state, "mine")
        return f"{request.state.model} {request.state.mine}"

    return app


async def get(app: Any) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


async def test_start_up_and_shut_down_run_once_and_requests_get_a_copy_of_the_state() -> None:
    events: list[str] = []
    served = LifespanRunner(app_with_lifespan(events))
    await served.startup()
    assert events == ["start"] and served.state == {"model": "v1"}
    assert await get(served) == (200, b'"v1 False"')
    assert await get(served) == (200, b'"v1 False"')
    await served.shutdown()
    await served.shutdown()
    assert events == ["start", "stop"]


async def test_a_failed_start_up_raises_with_the_reason() -> None:
    served = LifespanRunner(app_with_lifespan([], fail="start"))
    with pytest.raises(StartupError, match="ValueError: weights are missing") as caught:
        await served.startup()
    assert isinstance(caught.value.__cause__, ValueError)
    await served.shutdown()


async def test_a_failed_shut_down_raises_with_the_reason() -> None:
    served = LifespanRunner(app_with_lifespan([], fail="stop"))
    await served.startup()
    with pytest.raises(RuntimeError, match="cannot flush"):
        await served.shutdown()


async def test_an_app_that_knows_no_lifespan_is_served_all_the_same() -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await PlainTextResponse("bare")(scope, receive, send)

    async def returns(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await PlainTextResponse("bare")(scope, receive, send)

    for app in (bare, returns):
        served = LifespanRunner(app)
        await served.startup()
        assert await get(served) == (200, b"bare")
        await served.shutdown()


async def test_shutting_down_what_was_never_started_does_nothing() -> None:
    await LifespanRunner(app_with_lifespan([])).shutdown()


async def test_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    for fail in ("", "start"):
        served = LifespanRunner(app_with_lifespan([], fail))
        try:
            await served.startup()
        except StartupError:
            pass
        await served.shutdown()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
