"""Request heads that are odd, long, slow or many."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.requests import Request

from headrace.proxy import protocol
from wire.conditions import until

from .stack import Stack, response


class Echo:
    async def __call__(self, request: Request) -> Any:
        return {
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "raw_path": request.scope["raw_path"].decode("latin-1"),
            "request_id": request.headers.get("x-request-id"),
            "n": request.query_params.get("n"),
        }


class Slow:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()

    async def __call__(self, request: Request) -> str:
        n = request.query_params.get("n", "")
        self.started.append(n)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(n)
            raise
        return f"answer {n}"


async def test_pipelined_requests_are_answered_in_order(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    async with stack.raw() as (reader, writer):
        for n in range(20):
            writer.write(b"POST /?n=%d HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" % n)
        for n in range(20):
            status, _, body = await response(reader)
            assert status == 200 and f'"n":"{n}"'.encode() in body


async def test_a_client_that_leaves_with_pipelined_requests_leaves_nothing_behind(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Slow)
    async with stack.raw() as (_, writer):
        for n in range(3):
            writer.write(b"GET /?n=%d HTTP/1.1\r\nhost: x\r\n\r\n" % n)
        await until(lambda: replica.instance.started == ["0"])
    await until(lambda: replica.instance.cancelled == ["0"] and replica.service.ongoing == 0)
    assert replica.instance.started == ["0"]


async def test_a_head_request_gets_the_head_alone(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    async with stack.client() as client:
        whole = await client.get("/")
        head = await client.head("/")
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == whole.headers["content-length"]
    async with stack.raw() as (reader, writer):
        writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\nGET /?n=2 HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert b'"n":"2"' in (await response(reader))[2]


async def test_connections_stay_open_between_requests_unless_the_client_wants_otherwise(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    async with stack.raw() as (reader, writer):
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await response(reader))[0] == 200
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await response(reader))[1]["connection"] == "close"
        assert await reader.read() == b""
    async with stack.raw() as (reader, writer):
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await response(reader))[0] == 200
        assert await reader.read() == b""


async def test_an_idle_connection_is_closed_after_its_time(stack: Stack) -> None:
    await stack.start(keep_alive_timeout_s=1)
    await stack.deploy(Echo)
    async with stack.raw() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await response(reader))[0] == 200
        async with asyncio.timeout(10):
            assert await reader.read() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"\x16\x03\x01",
    ],
)
async def test_a_head_that_is_none_is_400(stack: Stack, head: bytes) -> None:
    await stack.start()
    async with stack.raw() as (reader, writer):
        writer.write(head + b"\r\n\r\n")
        status, headers, _ = await response(reader)
        assert status == 400 and headers["connection"] == "close"
        assert await reader.read() == b""


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 45\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n", 400),
        (b"CONNECT evil:443 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 200),
        (b"GET http://evil/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\r\n", 200),
    ],
)
async def test_requests_that_are_read_in_two_ways_elsewhere_are_read_in_one_here(
    stack: Stack, head: bytes, status: int
) -> None:
    await stack.start()
    replica = await stack.deploy(Slow)
    replica.instance.release.set()
    async with stack.raw() as (reader, writer):
        writer.write(head + SMUGGLED)
        assert (await response(reader))[0] == status
    assert len(replica.instance.started) == (status == 200)


LARGEST = protocol.MAX_HEAD_BYTES
FLOODS = {
    "one long header": [b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ", b"a" * 16_000],
    "a long path": [b"GET /", b"a" * 16_000],
    "many headers": [b"GET / HTTP/1.1\r\nhost: x\r\n", b"".join(b"x-%d: y\r\n" % i for i in range(1000))],
    "a header name that does not end": [b"GET / HTTP/1.1\r\nhost: x\r\nx", b"a" * 16_000],
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_head_that_does_not_end_is_cut_off_with_431(stack: Stack, flood: list[bytes]) -> None:
    await stack.start()
    replica = await stack.deploy(Slow)
    begin, rest = flood
    async with stack.raw() as (reader, writer):
        answered = asyncio.ensure_future(response(reader))
        writer.write(begin)
        sent = 0
        while not answered.done() and sent < 10_000_000:
            try:
                writer.write(rest)
                await writer.drain()
            except ConnectionError:
                break
            sent += len(rest)
            await asyncio.sleep(0)
        status, headers, _ = await answered
        assert status == 431 and headers["connection"] == "close"
        assert sent < LARGEST + 2_000_000
    assert not replica.instance.started
    await until(lambda: not stack.connections)


@pytest.mark.parametrize("flood", ["trailers", "one trailer", "chunk extension"])
async def test_what_surrounds_a_chunked_body_may_not_grow_without_end_either(stack: Stack, flood: str) -> None:
    await stack.start()
    replica = await stack.deploy(Slow)
    begin = {"trailers": b"0\r\n", "one trailer": b"0\r\nx: ", "chunk extension": b"5;"}[flood]
    rest = b"x-trailer: y\r\n" * 1000 if flood == "trailers" else b"a" * 14_000
    async with stack.raw() as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"5\r\nhello\r\n" + begin)
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 20_000_000:
                writer.write(rest)
                await writer.drain()
                sent += len(rest)
                await asyncio.sleep(0)
        assert sent < LARGEST + 5_000_000
    await until(lambda: not stack.connections and replica.service.ongoing == 0)


async def test_a_head_of_the_largest_size_passes_and_a_larger_one_does_not_in_one_piece_either(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    for size, expected in ((LARGEST - 1000, 200), (LARGEST + 1000, 431)):
        head = b"GET /?n=1 HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * size + b"\r\n\r\n"
        async with stack.raw() as (reader, writer):
            writer.write(head)
            assert (await response(reader))[0] == expected


async def test_a_large_body_beside_a_small_head_is_no_large_head(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    async with stack.raw() as (reader, writer):
        for _ in range(3):
            body = bytes(3 * LARGEST)
            writer.write(b"POST /?n=1 HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert (await response(reader))[0] == 200
        for _ in range(3):
            chunks = b"".join(b"1\r\nx\r\n" for _ in range(20_000))
            writer.write(
                b"POST /?n=1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
            )
            assert (await response(reader))[0] == 200


async def test_half_a_head_is_closed_after_its_time_and_a_whole_one_is_not(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    await stack.start()
    replica = await stack.deploy(Slow)
    async with stack.raw() as (working, whole), stack.raw() as (silent, _), stack.raw() as (half, beginning):
        whole.write(b"GET /?n=1 HTTP/1.1\r\nhost: x\r\n\r\n")
        beginning.write(b"GET / HTTP/1.1\r\nhost:")
        async with asyncio.timeout(10):
            assert await half.read() == b""
            assert await silent.read() == b""
        replica.instance.release.set()
        assert (await response(working))[2] == b"answer 1"
        # The same connection, a second request that does not get beyond its head.
        whole.write(b"GET / HT")
        async with asyncio.timeout(10):
            assert await working.read() == b""


async def test_a_trickling_head_is_closed_too(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.2)
    await stack.start()
    async with stack.raw() as (reader, writer):
        closed = asyncio.ensure_future(_end(reader))
        for byte in b"GET / HTTP/1.1\r\nx-slow: " + b"a" * 10_000:
            if closed.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        assert await closed == b""


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:  # closed while the next byte was on its way
        return b""


async def test_applications_see_the_root_path_and_their_prefix(stack: Stack) -> None:
    await stack.start(root_path="/outer")
    await stack.deploy(Echo, "/app")
    async with stack.client() as client:
        answer = (await client.get("/app/x%20y/ü")).json()
        assert answer["path"] == "/outer/app/x y/ü"
        assert answer["root_path"] == "/outer/app"
        assert answer["raw_path"] == "/outer/app/x%20y/%C3%BC"
        assert (await client.get("/elsewhere")).json()["routes"] == ["/app"]
        assert (await client.get("/-/healthz")).text == "success"
        assert (await client.get("/-/routes")).json() == {"/app": "Model"}


async def test_the_request_id_is_the_clients_or_a_fresh_one(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Echo)
    async with stack.client() as client:
        answer = await client.get("/", headers={"x-request-id": "mine"})
        assert answer.headers.get_list("x-request-id") == ["mine"]
        fresh = {(await client.get("/")).headers["x-request-id"] for _ in range(10)}
        assert len(fresh) == 10 and all(len(request_id) == 32 for request_id in fresh)
        for odd in (b"caf\xe9", b"\xc3\xbc"):
            answer = await client.get("/", headers={"x-request-id": odd})
            assert dict(answer.headers.raw)[b"x-request-id"] == odd
        answer = await client.get("/", headers={"x-request-id": "x" * 5000})
        assert len(answer.headers["x-request-id"]) == 32
        answer = await client.get("/nothing-here", headers={"x-request-id": "mine"})
        assert answer.status_code == 200  # the application has the whole server


async def test_before_the_routes_are_known_the_proxy_says_so(stack: Stack) -> None:
    await stack.start()
    async with stack.client() as client:
        for path in ("/", "/-/healthz"):
            answer = await client.get(path)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


async def test_garbage_is_logged_without_its_content(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await stack.start()
    async with stack.raw() as (reader, writer):
        writer.write(b"secret-token-in-garbage\r\n\r\n")
        assert (await response(reader))[0] == 400
    assert "secret-token" not in caplog.text
