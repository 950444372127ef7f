"""Request bodies of all sizes and manners, to limits and beyond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from headrace.wire import frames
from wire.conditions import until

from .stack import Stack, response

EDGES = [
    0,
    1,
    frames.PART_BYTES // 2 - 1,
    frames.PART_BYTES // 2,
    frames.PART_BYTES // 2 + 1,
    frames.PART_BYTES,
    frames.PART_BYTES + 1,
    2_000_000,
]


class Echo:
    async def __call__(self, request: Request) -> Any:
        return await request.body()


class Lengths:
    def __init__(self) -> None:
        self.started = 0
        self.read = 0

    async def __call__(self, request: Request) -> dict[str, int]:
        self.started += 1
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            self.read = size
        return {"size": size}


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for position in range(0, len(body), size):
        yield body[position : position + size]


@pytest.mark.parametrize("size", EDGES)
async def test_bodies_arrive_whole_with_and_without_a_length(stack: Stack, size: int) -> None:
    await stack.start()
    await stack.deploy(Echo)
    body = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000 + 1)
    body = body[:size]
    async with stack.client() as client:
        for content in (body, pieces(body, 1000), pieces(body, 300_000)):
            answer = await client.post("/", content=content)
            assert answer.status_code == 200 and answer.content == body
        replica = stack.replicas["Model"]
        await until(lambda: replica.service.ongoing == 0)


LIMIT = 300_000


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
async def test_a_body_at_the_limit_passes(stack: Stack, size: int) -> None:
    await stack.start(max_body_bytes=LIMIT)
    await stack.deploy(Lengths)
    async with stack.client() as client:
        for content in (bytes(size), pieces(bytes(size), 5000)):
            assert (await client.post("/", content=content)).json() == {"size": size}


async def test_a_body_whose_length_is_over_the_limit_is_refused_before_it_is_sent(stack: Stack) -> None:
    await stack.start(max_body_bytes=LIMIT)
    replica = await stack.deploy(Lengths)
    async with stack.raw() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (LIMIT + 1))
        status, headers, body = await response(reader)
        assert status == 413 and headers["connection"] == "close" and b"300000 bytes" in body
        assert await reader.read() == b""
    assert replica.instance.started == 0


@pytest.mark.parametrize("limit", [1000, LIMIT])
async def test_a_chunked_body_over_the_limit_is_refused_without_reading_it_all(stack: Stack, limit: int) -> None:
    await stack.start(max_body_bytes=limit)
    replica = await stack.deploy(Lengths)
    sent = 0
    async with stack.raw() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        answered = asyncio.ensure_future(response(reader))
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(20):
                while True:
                    writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                    sent += 65536
                    await writer.drain()
                    await asyncio.sleep(0)
        status, headers, _ = await answered
        assert status == 413 and headers["connection"] == "close"
    assert sent < limit + 8_000_000
    await until(lambda: replica.service.ongoing == 0)
    assert replica.instance.read <= limit


async def test_a_client_that_sends_on_after_413_still_hears_it(stack: Stack) -> None:
    """Closing a socket on unread bytes resets it, and the client might never see why."""
    await stack.start(max_body_bytes=LIMIT)
    await stack.deploy(Lengths)
    async with stack.client() as client:
        for _ in range(10):
            answer = await client.post("/", content=bytes(10 * LIMIT))
            assert answer.status_code == 413


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(stack: Stack) -> None:
    await stack.start(max_body_bytes=LIMIT)
    await stack.deploy(Lengths)
    async with stack.raw() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"12345")
        assert (await response(reader))[2] == b'{"size":5}'


async def test_a_client_that_asks_before_it_sends_too_much_is_told_at_once(stack: Stack) -> None:
    await stack.start(max_body_bytes=LIMIT)
    await stack.deploy(Lengths)
    async with stack.raw() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\nexpect: 100-continue\r\n\r\n")
        assert (await response(reader))[0] == 413


async def test_a_handler_that_does_not_read_the_body_still_answers(stack: Stack) -> None:
    async def ignores(request: Request) -> str:
        return "done"

    await stack.start()
    await stack.deploy(ignores)
    async with stack.client() as client:
        for size in (10, 3_000_000):
            assert (await client.post("/", content=bytes(size))).text == "done"
        assert (await client.get("/")).text == "done"


async def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_request(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Lengths)
    for declared in (1000, 10_000_000):
        async with stack.raw() as (_, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % declared + b"abc")
            await writer.drain()
            if declared > 1000:
                await until(lambda: replica.service.ongoing == 1 and replica.instance.read)
        await until(lambda: replica.service.ongoing == 0 and not stack.connections)
    router = stack.app.hub.router("Model", "Model")
    await until(lambda: router.queued == 0 and all(link.inflight == 0 for link in router._links.values()))
