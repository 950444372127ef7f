"""Time limits, clients that leave, refusals, middlewares and TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from headrace.exceptions import ConfigError
from wire.conditions import until

from .stack import Stack, response
from .test_heads import Slow


class Stream:
    """Streams one chunk, then waits for the test."""

    def __init__(self) -> None:
        self.closed = 0
        self.release = asyncio.Event()

    async def __call__(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await self.release.wait()
                yield b"second"
            finally:
                self.closed += 1

        return StreamingResponse(chunks())


class Flood:
    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(2000):
                yield bytes(50_000)
                self.sent += 50_000

        return StreamingResponse(chunks())


async def test_a_request_that_takes_too_long_is_408_and_its_work_is_cancelled(stack: Stack) -> None:
    await stack.start(request_timeout_s=0.1)
    replica = await stack.deploy(Slow)
    async with stack.client() as client:
        answer = await client.get("/?n=1", headers={"x-request-id": "mine"})
        assert answer.status_code == 408 and answer.json()["request_id"] == "mine"
        assert answer.headers["x-request-id"] == "mine"
    await until(lambda: replica.instance.cancelled == ["1"] and replica.service.ongoing == 0)


async def test_a_request_that_waits_too_long_for_its_turn_is_408_and_never_starts(stack: Stack) -> None:
    await stack.start(request_timeout_s=0.2)
    replica = await stack.deploy(Slow, max_ongoing_requests=1)
    async with stack.client() as client:
        answers = await asyncio.gather(*(client.get(f"/?n={n}") for n in range(3)))
    assert [answer.status_code for answer in answers] == [408] * 3
    await until(lambda: replica.service.ongoing == 0)
    router = stack.app.hub.router("Model", "Model")
    assert router.queued == 0
    assert len(replica.instance.started) < 3 or replica.instance.started == replica.instance.cancelled


async def test_a_body_that_trickles_in_counts_against_the_time_limit(stack: Stack) -> None:
    await stack.start(request_timeout_s=0.2)
    replica = await stack.deploy(Slow)
    async with stack.raw() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\na")
        assert (await response(reader))[0] == 408
    assert not replica.instance.started


async def test_a_stream_that_takes_too_long_is_cut(stack: Stack) -> None:
    await stack.start(request_timeout_s=0.2)
    replica = await stack.deploy(Stream)
    async with stack.client() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
    await until(lambda: replica.instance.closed == 1 and replica.service.ongoing == 0)


async def test_a_client_that_leaves_the_queue_is_not_served(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Slow, max_ongoing_requests=1)
    router = stack.app.hub.router("Model", "Model")
    async with stack.raw() as (reader, writer):
        writer.write(b"GET /?n=first HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: replica.instance.started == ["first"])
        async with stack.raw() as (_, waiting):
            waiting.write(b"GET /?n=second HTTP/1.1\r\nhost: x\r\n\r\n")
            await until(lambda: router.queued == 1)
        await until(lambda: router.queued == 0)
        replica.instance.release.set()
        assert (await response(reader))[2] == b"answer first"
    assert replica.instance.started == ["first"]


async def test_clients_that_leave_at_any_moment_leave_nothing_behind(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Slow, max_ongoing_requests=3)
    replica.instance.release.set()
    router = stack.app.hub.router("Model", "Model")

    async def one(n: int) -> None:
        async with stack.raw() as (_, writer):
            writer.write(b"GET /?n=%d HTTP/1.1\r\nhost: x\r\n\r\n" % n)
            await asyncio.sleep(n % 7 * 0.0005)
            if n % 2:
                writer.transport.abort()

    for _ in range(3):
        await asyncio.gather(*(one(n) for n in range(40)))
    await until(lambda: not stack.connections and replica.service.ongoing == 0)
    await until(lambda: router.queued == 0 and all(link.inflight == 0 for link in router._links.values()))
    assert not stack.unhandled


async def test_a_client_that_leaves_a_stream_ends_it(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Stream)
    async with stack.raw() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"first")
    await until(lambda: replica.instance.closed == 1 and replica.service.ongoing == 0)


async def test_a_slow_reader_holds_back_the_stream_that_it_reads(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Flood)
    async with stack.raw() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while replica.instance.sent != before:
            before = replica.instance.sent
            await asyncio.sleep(0.1)
        assert before < 20_000_000
        size = 0
        while size < 100_000_000:
            size += len(await reader.read(1 << 20))
    await until(lambda: replica.service.ongoing == 0)
    assert replica.instance.sent == 100_000_000


async def test_middlewares_wrap_all_applications_the_first_outermost(stack: Stack) -> None:
    where = "proxy.middlewares:Stamp"
    await stack.start(
        middlewares=[
            {"cls": where, "args": ["x-outer"]},
            {"cls": where.replace(":", "."), "kwargs": {"name": "x-inner"}},
        ]
    )
    replica = await stack.deploy(Slow)
    replica.instance.release.set()
    async with stack.client() as client:
        answer = await client.get("/?n=1")
        names = [name for name, _ in answer.headers.raw if name.startswith(b"x-")]
        assert answer.text == "answer 1" and names[-2:] == [b"x-inner", b"x-outer"]
        stopped = await client.get("/stopped")
        assert stopped.status_code == 418 and "x-inner" not in stopped.headers
    assert replica.instance.started == ["1"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("proxy.nowhere:Stamp", "No module named"), ("proxy.middlewares:Refuses", "wrong licence key")],
)
async def test_a_middleware_that_cannot_be_made_is_named(path: str, reason: str) -> None:
    from headrace.proxy.main import _wrapped

    with pytest.raises(ConfigError, match=f"http_options.middlewares: cannot make '{path}': .*{reason}"):
        _wrapped(object(), [{"cls": path}])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


class Both:
    async def __call__(self, request: Request) -> Any:
        return {"scheme": request.url.scheme, "size": len(await request.body())}


async def test_https_with_a_certificate(stack: Stack, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    await stack.start(ssl_keyfile=str(key), ssl_certfile=str(cert))
    await stack.deploy(Both)
    trusted = ssl.create_default_context(cafile=str(cert))
    async with stack.client(verify=trusted) as client:
        for size in (0, 10, 1_000_000):
            answer = await client.post("/", content=bytes(size))
            assert answer.json() == {"scheme": "https", "size": size}
    async with stack.client(verify=ssl.create_default_context()) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get("/")
    async with stack.raw() as (reader, writer):  # no TLS at all
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert b"200" not in await reader.read()
    await until(lambda: not stack.connections)
    stack.unhandled.clear()  # asyncio tells of failed TLS handshakes


async def test_a_long_head_is_refused_over_tls_too(stack: Stack, certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    await stack.start(ssl_keyfile=str(key), ssl_certfile=str(cert))
    await stack.deploy(Both)
    async with stack.client(verify=ssl.create_default_context(cafile=str(cert))) as client:
        assert (await client.get("/", headers={"x-long": "a" * 100_000})).status_code == 431
