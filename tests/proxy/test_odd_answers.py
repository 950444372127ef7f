"""Whatever a handler raises or returns, the client hears something, and the replica's place is free again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .stack import Stack


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def fail(error: BaseException) -> Any:
    raise error


async def cancelled() -> None:
    raise asyncio.CancelledError


def headers(name: str, value: str) -> Response:
    response = Response("x")
    response.raw_headers = [(name.encode(), value.encode())]
    return response


def raises_at_once() -> Iterator[str]:
    raise ValueError("before the first chunk")
    yield ""


async def raises_at_once_too() -> AsyncIterator[str]:
    raise ValueError("before the first chunk")
    yield ""


ODD: dict[str, Any] = {
    "ValueError": lambda: fail(ValueError("x")),
    "SystemExit": lambda: fail(SystemExit(3)),
    "KeyboardInterrupt": lambda: fail(KeyboardInterrupt()),
    "GeneratorExit": lambda: fail(GeneratorExit()),
    "StopIteration": lambda: fail(StopIteration()),
    "StopAsyncIteration": lambda: fail(StopAsyncIteration()),
    "CancelledError": lambda: fail(asyncio.CancelledError()),
    "unprintable": lambda: fail(Unprintable()),
    "unserializable": threading.Lock,
    "a class": lambda: threading.Lock,
    "a header with a line break": lambda: headers("x-odd", "a\r\nset-cookie: stolen"),
    "a header name with spaces": lambda: headers("x odd", "a"),
    "a wrong content-length": lambda: headers("content-length", "5"),
    "a content-length that is no number": lambda: headers("content-length", "many"),
    "status 99": lambda: Response("x", 99),
    "status 999": lambda: Response("x", 999),
}


class Sync:
    def __call__(self, request: Request) -> Any:
        return ODD[request.query_params["odd"]]()


class Async:
    async def __call__(self, request: Request) -> Any:
        if request.query_params["odd"] == "CancelledError":
            await cancelled()
        return ODD[request.query_params["odd"]]()


@pytest.mark.parametrize("target", [Sync, Async])
async def test_the_client_hears_an_error_and_the_next_request_is_served(stack: Stack, target: Any) -> None:
    await stack.start()
    replica = await stack.deploy(target, max_ongoing_requests=1)
    ODD["fine"] = lambda: "fine"
    async with stack.client() as client:
        for odd in ODD:
            try:
                answer = await client.get("/", params={"odd": odd})
                assert (answer.status_code >= 500) is (odd != "fine"), odd
                assert "Traceback" not in answer.text and "stolen" not in answer.headers.get("set-cookie", "")
            except httpx.RemoteProtocolError:
                assert "content-length" in odd or "status" in odd, odd
            async with asyncio.timeout(10):
                assert (await client.get("/", params={"odd": "fine"})).text == "fine"
            assert replica.service.ongoing == 0


class Streams:
    async def __call__(self, request: Request) -> Any:
        kind = request.query_params["kind"]
        if kind == "sync":
            return raises_at_once()
        if kind == "async":
            return raises_at_once_too()
        return StreamingResponse(raises_at_once() if kind == "response of sync" else raises_at_once_too())


async def test_a_stream_that_fails_before_its_first_chunk_is_no_success(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Streams, max_ongoing_requests=1)
    async with stack.client() as client:
        for kind in ("sync", "async", "response of sync", "response of async"):
            try:
                assert (await client.get("/", params={"kind": kind})).status_code == 500, kind
            except httpx.RemoteProtocolError:
                pass  # cut: the status was on its way
            assert replica.service.ongoing == 0
