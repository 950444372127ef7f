"""The live stream: who listens is told what changes, who does not take it is cut off, and nobody keeps a server up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from headrace.controller.observed.live import BEHIND_BYTES, Listener, Live
from headrace.controller.observed.sampler import Sampler
from headrace.controller.rest import RestServer

from .conftest import until
from .fakes import SECRET

STATUS_BYTES = 3 * 1024 * 1024


class Served:
    """A stream of an instance whose status is large and always another."""

    def __init__(self) -> None:
        self.asked = 0
        self.live = Live(Sampler(SECRET, list, self._processes), self._status, self._changed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = RestServer(Starlette(routes=[Route("/live", _App(self.live), methods=["GET"])]))
        self.serving = asyncio.create_task(self.server.serve(self.listener))

    async def _processes(self) -> list[Any]:
        return []

    async def _status(self) -> bytes:
        self.asked += 1
        return b'"%d%s"' % (self.asked, b"x" * STATUS_BYTES)

    async def _changed(self, since: int) -> int:
        return since + 1


class _App:
    def __init__(self, live: Live) -> None:
        self._live = live

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._live(scope, receive, send)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    yield made
    made.live.close()
    made.server.stop()
    await asyncio.wait_for(made.serving, 10)
    made.listener.close()


async def numbers(stream: httpx.Response) -> AsyncIterator[int]:
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            yield int(line.removeprefix('data: "').rstrip('x"'))


def test_a_listener_may_have_one_event_ahead_of_it_however_large_and_is_cut_off_behind_more() -> None:
    listener = Listener(behind_bytes=100)
    listener.tell(b"x" * 1000)
    assert not listener.cut_off
    listener.tell(b"x")
    assert listener.cut_off and listener.ended.is_set()


async def test_a_listener_that_takes_what_comes_is_told_for_ever() -> None:
    listener = Listener(behind_bytes=100)
    for number in range(1000):
        listener.tell(b"%d" % number * 10)
        assert await listener.next() == b"%d" % number * 10
        listener.sent()
    assert not listener.cut_off


async def test_a_client_that_does_not_read_is_cut_off_and_another_is_not(served: Served) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        await loop.sock_connect(stalled, served.listener.getsockname())
        await loop.sock_sendall(stalled, b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: len(served.live._listeners) == 1)
        async with (
            httpx.AsyncClient(base_url=served.url, timeout=30) as client,
            client.stream("GET", "/live") as stream,
        ):
            seen = numbers(stream)
            first = await anext(seen)
            await until(lambda: len(served.live._listeners) == 2)
            # Four events fill what it may have ahead of it, and whatever sockets hold.
            while len(served.live._listeners) == 2:
                last = await anext(seen)
            assert last - first >= BEHIND_BYTES // STATUS_BYTES
            assert await anext(seen) == last + 1
            received = 0
            with pytest.raises(ConnectionError):
                while True:
                    received += len(await asyncio.wait_for(loop.sock_recv(stalled, 1 << 16), 10) or _end())
            assert received < 10 * STATUS_BYTES


def _end() -> bytes:
    raise ConnectionResetError("the end of the stream, which is as good")


async def test_a_server_that_stops_ends_the_streams_and_waits_for_nobody(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client, client.stream("GET", "/live") as stream:
        seen = numbers(stream)
        await anext(seen)
        served.live.close()
        served.server.stop()
        async for _ in seen:  # it ends, and no error cuts it short
            pass
        await asyncio.wait_for(served.serving, 5)


async def test_nothing_is_asked_once_nobody_listens(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        async with client.stream("GET", "/live") as stream:
            await anext(numbers(stream))
        await until(lambda: served.live._telling is None)
        assert not served.live._listeners
        asked = served.asked
        async with client.stream("GET", "/live") as stream:
            assert await anext(numbers(stream)) == asked + 1
