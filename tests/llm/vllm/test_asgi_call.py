"""Calling an ASGI application in the same process. No vLLM is needed: any Starlette application does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from headrace.llm.engines.protocol import EngineRequest
from headrace.llm.engines.vllm.asgi_call import api_paths, call


class Generation:
    """Streams events that a test lets through, and notes how it ended."""

    def __init__(self) -> None:
        self.let_through: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = "not"

    async def events(self) -> AsyncIterator[bytes]:
        try:
            while event := await self.let_through.get():
                yield event
            self.ended = "finished"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise

    async def stream(self, request: Request) -> Response:
        return StreamingResponse(self.events(), media_type="text/event-stream")


def streaming(generation: Generation) -> Starlette:
    return Starlette(routes=[Route("/stream", generation.stream, methods=["POST"])])


async def test_an_answer_comes_with_its_status_and_headers() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse(await request.json(), status_code=418, headers={"retry-after": "7"})

    app = Starlette(routes=[Route("/echo", handler, methods=["POST"])])

    response = await call(app, EngineRequest("/echo", b'{"a":1}', "id"))

    assert (response.status, response.body, response.media_type) == (418, b'{"a":1}', "application/json")
    assert response.headers["retry-after"] == "7"


async def test_the_application_sees_the_headers_and_the_request_id() -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({name: request.headers[name] for name in ("x-request-id", "traceparent", "content-type")})

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])

    response = await call(app, EngineRequest("/", b"", "abc", {"traceparent": "00-1"}))

    assert response.body == b'{"x-request-id":"abc","traceparent":"00-1","content-type":"application/json"}'


async def test_events_come_one_by_one_as_they_are_made() -> None:
    generation = Generation()
    response = await call(streaming(generation), EngineRequest("/stream", b"", "id"))
    assert not isinstance(response.body, bytes)

    for number in range(3):
        generation.let_through.put_nowait(b"data: %d\n\n" % number)
        assert await anext(response.body) == b"data: %d\n\n" % number
    generation.let_through.put_nowait(b"")

    with pytest.raises(StopAsyncIteration):
        await anext(response.body)
    assert generation.ended == "finished"


async def test_events_that_nobody_took_yet_come_together() -> None:
    generation = Generation()
    for number in range(3):
        generation.let_through.put_nowait(b"data: %d\n\n" % number)
    generation.let_through.put_nowait(b"")
    response = await call(streaming(generation), EngineRequest("/stream", b"", "id"))
    assert not isinstance(response.body, bytes)

    assert b"".join([piece async for piece in response.body]) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_closing_a_stream_cancels_the_generation() -> None:
    generation = Generation()
    response = await call(streaming(generation), EngineRequest("/stream", b"", "id"))
    assert not isinstance(response.body, bytes)
    generation.let_through.put_nowait(b"data: 0\n\n")
    await anext(response.body)

    await response.body.aclose()

    assert generation.ended == "cancelled"
    assert [piece async for piece in response.body] == []


async def test_closing_a_stream_that_nobody_began_to_read_cancels_the_generation() -> None:
    generation = Generation()
    response = await call(streaming(generation), EngineRequest("/stream", b"", "id"))
    assert not isinstance(response.body, bytes)
    await asyncio.sleep(0)

    await response.body.aclose()

    assert generation.ended in ("cancelled", "not")
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_cancelled_call_tells_the_application_that_the_client_hung_up() -> None:
    heard: list[str] = []
    begun = asyncio.Event()

    async def handler(request: Request) -> Response:
        await request.body()
        begun.set()
        heard.append((await request.receive())["type"])
        return Response()

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    task = asyncio.create_task(call(app, EngineRequest("/", b"{}", "id")))
    await begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert heard == ["http.disconnect"]


async def test_an_application_that_hears_nothing_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.llm.engines.vllm.asgi_call._PATIENCE_S", 0.01)
    begun = asyncio.Event()

    async def handler(request: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        return Response()

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    task = asyncio.create_task(call(app, EngineRequest("/", b"{}", "id")))
    await begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_an_application_is_not_far_ahead_of_its_reader() -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(1000)

    async def handler(request: Request) -> Response:
        return StreamingResponse(endless(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    response = await call(app, EngineRequest("/", b"", "id"))
    assert not isinstance(response.body, bytes)

    for _ in range(10):
        await asyncio.sleep(0)
    assert 1 <= made < 100
    before = made
    assert len(await anext(response.body)) >= 1000
    await asyncio.sleep(0)
    assert made > before
    await response.body.aclose()


async def test_a_failure_before_the_answer_is_an_error_in_the_shape_of_openai() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("no wheel")

    response = await call(app, EngineRequest("/", b"", "id"))

    assert response.status == 500
    assert (
        response.body
        == b'{"error": {"message": "no wheel", "type": "InternalServerError", "param": null, "code": 500}}'
    )


async def test_a_failure_in_a_stream_is_raised_after_what_came_before() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 0\n\n"
        raise RuntimeError("no water")

    async def handler(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    response = await call(app, EngineRequest("/", b"", "id"))
    assert not isinstance(response.body, bytes)

    assert await anext(response.body) == b"data: 0\n\n"
    with pytest.raises(RuntimeError, match="no water"):
        await anext(response.body)


def test_paths_are_those_that_take_post_requests() -> None:
    async def handler(request: Request) -> Response:
        return Response()

    routes = [Route("/a", handler, methods=["POST"]), Route("/b", handler), Route("/c", handler, methods=["POST"])]

    assert api_paths(routes, frozenset({"/a", "/b"})) == {"/a"}
