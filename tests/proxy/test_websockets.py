"""WebSockets through the proxy: both directions, and either side vanishing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect

import headrace as serve
from headrace.proxy import protocol
from wire.conditions import until

from .stack import Stack

app = FastAPI()


@serve.ingress(app)
class Sockets:
    def __init__(self) -> None:
        self.disconnects: list[Any] = []
        self.open = 0
        self.sent = 0

    @app.websocket("/echo")
    async def echo(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
        self.open += 1
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    self.disconnects.append(message.get("code"))
                    return
                if message.get("text") == "close":
                    await socket.close(4000, "as you wish")
                    return
                if message.get("text") == "raise":
                    raise ValueError("a secret of the application's")
                await socket.send({**message, "type": "websocket.send"})
        finally:
            self.open -= 1

    @app.websocket("/flood")
    async def flood(self, socket: WebSocket) -> None:
        await socket.accept()
        self.open += 1
        try:
            while True:
                await socket.send_bytes(bytes(10_000))
                self.sent += 10_000
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self.open -= 1

    @app.websocket("/refuse")
    async def refuse(self, socket: WebSocket) -> None:
        await socket.close(1008)


def url(stack: Stack, path: str) -> str:
    host, port = stack.address
    return f"ws://{host}:{port}{path}"


async def test_messages_go_both_ways(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Sockets)
    async with connect(url(stack, "/echo"), subprotocols=[websockets.Subprotocol("chat")]) as socket:
        assert socket.subprotocol == "chat"
        for message in ("text", b"bytes", "", "x" * 500_000, bytes(500_000)):
            await socket.send(message)
            assert await socket.recv() == message
        for n in range(500):
            await socket.send(str(n))
        assert [await socket.recv() for _ in range(500)] == [str(n) for n in range(500)]


async def test_the_application_closes_with_its_code(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    async with connect(url(stack, "/echo")) as socket:
        await socket.send("close")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "as you wish")
    await until(lambda: replica.service.ongoing == 0)


async def test_an_application_that_raises_closes_without_telling_why(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    async with connect(url(stack, "/echo")) as socket:
        await socket.send("raise")
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        assert "secret" not in closed.value.rcvd.reason
    await until(lambda: replica.service.ongoing == 0)


@pytest.mark.parametrize("path", ["/refuse", "/no-such-route"])
async def test_a_refused_websocket_is_403(stack: Stack, path: str) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(url(stack, path)):
            pass
    assert refused.value.response.status_code == 403
    await until(lambda: replica.service.ongoing == 0)


async def test_a_websocket_without_an_application_is_403(stack: Stack) -> None:
    await stack.start()
    await stack.deploy(Sockets, "/app")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(url(stack, "/elsewhere")):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("how", ["close", "vanish"])
async def test_a_client_that_goes_is_heard_of_by_the_application(stack: Stack, how: str) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    socket = await connect(url(stack, "/echo"))
    await socket.send("hello")
    assert await socket.recv() == "hello"
    if how == "close":
        await socket.close(1001)
    else:
        socket.transport.abort()
    await until(lambda: replica.instance.disconnects and replica.service.ongoing == 0)
    assert replica.instance.disconnects in ([[1001]] if how == "close" else [[1005], [1006]])
    router = stack.app.hub.router("Model", "Model")
    await until(lambda: all(link.inflight == 0 for link in router._links.values()))


async def test_a_client_that_vanishes_while_it_is_sent_to_ends_the_sending(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    seen = replica.instance
    socket = await connect(url(stack, "/flood"))
    await socket.recv()
    socket.transport.abort()
    await until(lambda: seen.open == 0 and replica.service.ongoing == 0)


async def test_a_client_that_does_not_read_holds_back_the_application(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    seen = replica.instance
    socket = await connect(url(stack, "/flood"), max_queue=1, compression=None)
    before = -1
    while seen.sent != before:
        before = seen.sent
        await asyncio.sleep(0.1)
    assert before < 30_000_000
    socket.transport.abort()
    await until(lambda: seen.open == 0 and replica.service.ongoing == 0)


async def test_a_websocket_that_is_quiet_is_not_a_slow_head(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    await stack.start()
    await stack.deploy(Sockets)
    async with connect(url(stack, "/echo")) as socket:
        await asyncio.sleep(0.4)
        await socket.send("still here")
        assert await socket.recv() == "still here"


async def test_a_replica_that_dies_closes_its_websockets(stack: Stack) -> None:
    await stack.start()
    replica = await stack.deploy(Sockets)
    async with connect(url(stack, "/echo")) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        for connection in list(replica.listener.connections):
            connection.abort()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
