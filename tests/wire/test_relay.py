"""A relay hands connections on to wherever the service is at that moment, whatever is spoken over them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvicorn

from headrace.engine.listeners import listen_unix
from headrace.wire.caller import connect
from headrace.wire.errors import HandshakeFailed
from headrace.wire.relay import Relay, relay

from .conditions import until
from .connected import SECRET, Recorded, Requests
from .test_gate import ended, opened, raw_socket, serving, tcp_listener


@contextlib.asynccontextmanager
async def relayed(listener: socket.socket, target: Callable[[], str | None]) -> AsyncIterator[Relay]:
    made = await relay(listener, SECRET, target)
    try:
        yield made
    finally:
        made.close()
        await until(lambda: not made.connections)


async def test_a_socket_of_another_machine_is_reached_at_one_of_this(folder: Path) -> None:
    here = folder / "here"
    here.mkdir()
    service = Requests(lambda call: call.respond(0, b"", bytes(call.payload)))
    async with (
        serving(folder, service),
        opened(folder) as door,
        relayed(listen_unix(here / "wire.sock"), door.address),
    ):
        caller = await connect(str(here / "wire.sock"), SECRET)
        call = Recorded()
        caller.call(call, 0, b"", bytes(2_000_000))
        assert await call.ended == "response" and call.received == 2_000_000
        caller.close()


async def test_each_connection_goes_where_the_service_is_by_then(folder: Path) -> None:
    where: list[str | None] = [None]
    async with (
        raw_socket(folder, "a.sock") as a,
        raw_socket(folder, "b.sock") as b,
        relayed(listen_unix(folder / "relay.sock"), lambda: where[0]) as made,
    ):
        for target, arrived in (("a.sock", a), ("b.sock", b)):
            where[0] = str(folder / target)
            reader, writer = await asyncio.open_unix_connection(folder / "relay.sock")
            writer.write(b"hello")
            inner_reader, inner_writer = await arrived.get()
            assert await inner_reader.readexactly(5) == b"hello"
            inner_writer.write(b"good day")
            assert await reader.readexactly(8) == b"good day"
            writer.close()
            inner_writer.close()
        await until(lambda: not made.connections)


@pytest.mark.parametrize("target", [None, "127.0.0.1:1", "/nowhere/at.all", "nonsense", "127.0.0.1:1/x.sock"])
async def test_where_there_is_no_service_the_connection_ends_at_once(target: str | None, folder: Path) -> None:
    async with relayed(listen_unix(folder / "relay.sock"), lambda: target):
        reader, writer = await asyncio.open_unix_connection(folder / "relay.sock")
        writer.write(b"anybody?")
        assert await ended(reader)
        writer.close()
        with pytest.raises((HandshakeFailed, ConnectionError)):
            await connect(str(folder / "relay.sock"), SECRET)


async def test_plain_http_goes_through_to_what_shakes_no_hands(folder: Path) -> None:
    import httpx

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body[::-1]})

    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve(sockets=[listen_unix(folder / "rest.sock")]))
    listener = tcp_listener()
    async with (
        opened(folder) as door,
        relayed(listener, lambda: door.address("rest.sock")),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client,
    ):
        for body in (b"", b"abc", bytes(range(256)) * 4000):
            answer = await client.post("/", content=body)
            assert answer.content == body[::-1]
    server.should_exit = True
    await running


async def test_a_caller_that_hangs_up_while_the_service_is_looked_for_leaves_nothing(folder: Path) -> None:
    silent = tcp_listener()  # accepts, and never says what a gate says
    address = f"127.0.0.1:{silent.getsockname()[1]}/x.sock"
    async with relayed(listen_unix(folder / "relay.sock"), lambda: address) as made:
        _, writer = await asyncio.open_unix_connection(folder / "relay.sock")
        await until(lambda: made.connections)
        writer.transport.abort()
    silent.close()
