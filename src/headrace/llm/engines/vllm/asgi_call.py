"""Calls an ASGI application of this process, as an HTTP server would, without the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from headrace.llm.engines.protocol import EngineRequest, EngineResponse

logger = logging.getLogger("headrace.llm.vllm")

AsgiApp = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

EVENT_STREAM = "text/event-stream"
# What an answer may be ahead of its reader, bytes. vLLM joins tokens that nobody has taken yet.
_READ_AHEAD = 64 * 1024
# What a call that was hung up on may take to end before it is cancelled, seconds.
_PATIENCE_S = 1.0
_NOT_PASSED_ON = frozenset({b"content-length", b"content-type", b"transfer-encoding", b"connection"})


async def call(app: AsgiApp, request: EngineRequest) -> EngineResponse:
    """Answer a request with the application.

    Cancelling this, or closing the body's generator, is to the application what a client is that hangs up.
    """
    exchange = _Exchange(request.body)
    task = asyncio.ensure_future(app(_scope(request), exchange.receive, exchange.send))
    exchange.end_with(task)
    try:
        await exchange.readable
    except asyncio.CancelledError:
        await _hang_up(exchange, task)
        raise
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in exchange.headers
        if name not in _NOT_PASSED_ON
    }
    body = _Pieces(exchange, task) if exchange.media_type == EVENT_STREAM else exchange.take()
    return EngineResponse(exchange.status, body, exchange.media_type, headers)


def _scope(request: EngineRequest) -> MutableMapping[str, Any]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]
    names = {name for name, _ in headers}
    if b"content-type" not in names:
        headers.append((b"content-type", b"application/json"))
    if b"x-request-id" not in names and request.request_id:
        headers.append((b"x-request-id", request.request_id.encode("latin-1", "replace")))
    headers.append((b"content-length", str(len(request.body)).encode()))
    return {
        "type": "http",
        # From 2.4 on Starlette streams without a task that waits for the client to hang up.
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": None,
        "server": None,
        "state": {},
    }


async def _hang_up(exchange: _Exchange, task: asyncio.Future[None]) -> None:
    """End a call whose answer nobody wants any more; returns when it has ended."""
    if not exchange.started and not task.done():
        # vLLM's handlers listen for this and cancel what they do; cancelled themselves, they would leave it running.
        exchange.disconnected.set_result(None)
        await asyncio.wait({task}, timeout=_PATIENCE_S)
    task.cancel()
    await asyncio.wait({task})


class _Exchange:
    """What the application is given and gives."""

    def __init__(self, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.status = 500
        self.media_type = "application/json"
        self.headers: list[tuple[bytes, bytes]] = []
        self.started = False
        self.complete = False
        self.failure: BaseException | None = None
        self.readable: asyncio.Future[None] = loop.create_future()
        self.disconnected: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._body: bytes | None = body
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    # The application's side.

    async def receive(self) -> dict[str, Any]:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self.disconnected)
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            piece = message.get("body", b"")
            if piece:
                self._pieces.append(piece)
                self._size += len(piece)
            if not message.get("more_body", False):
                self.complete = True
            self._wake_reader()
            if self._size > _READ_AHEAD and not self.complete and self.readable.done():
                self._room = self._loop.create_future()
                await self._room
        elif message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
            for name, value in self.headers:
                if name == b"content-type":
                    self.media_type = value.decode("latin-1")
            if self.media_type.startswith(EVENT_STREAM):
                self.media_type = EVENT_STREAM
                self._becomes_readable()

    def end_with(self, task: asyncio.Future[None]) -> None:
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self.complete:
            self.failure = error or ConnectionError("the generation was ended before its answer was complete")
            if error is not None:
                logger.error("a request to vLLM failed", exc_info=error)
            if not self.readable.done():
                self._pieces.append(_failed(self.failure))
            self.complete = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self.complete:
            self._becomes_readable()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _becomes_readable(self) -> None:
        if not self.readable.done():
            self.readable.set_result(None)

    # The reader's side.

    def take(self) -> bytes:
        """All that is there."""
        pieces = self._pieces
        all_of_it = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return all_of_it

    async def next(self) -> bytes:
        """What is there, once there is something; b"" at the end."""
        while not self._pieces:
            if self.complete:
                if self.failure is not None:
                    raise self.failure
                return b""
            self._reader = self._loop.create_future()
            await self._reader
        return self.take()


class _Pieces(AsyncGenerator[bytes, None]):
    """The parts of an answer as they come.

    A class, since closing a generator function that nobody has begun to iterate runs nothing of it.
    """

    def __init__(self, exchange: _Exchange, task: asyncio.Future[None]) -> None:
        self._exchange = exchange
        self._task = task
        self._closed = False

    async def __anext__(self) -> bytes:
        if not self._closed:
            try:
                piece = await self._exchange.next()
            except BaseException:
                await self.aclose()
                raise
            if piece:
                return piece
        await self.aclose()
        raise StopAsyncIteration

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> bytes:
        await self.aclose()
        raise error[0]

    async def aclose(self) -> None:
        self._closed = True
        if not self._task.done():
            await _hang_up(self._exchange, self._task)

    def __del__(self) -> None:
        if not self._task.done():
            self._task.cancel()


def error_response(status: int, message: str, kind: str, param: str | None = None) -> EngineResponse:
    """An error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": status}}
    return EngineResponse(status, json.dumps(body).encode())


def _failed(error: BaseException) -> bytes:
    body = error_response(500, str(error) or type(error).__name__, "InternalServerError").body
    assert isinstance(body, bytes)
    return body


def api_paths(routes: Iterable[Any], known: frozenset[str]) -> frozenset[str]:
    """Those of `known` that routes of a Starlette application take POST requests for."""
    return frozenset(
        route.path for route in routes if getattr(route, "path", None) in known and "POST" in (route.methods or ())
    )
