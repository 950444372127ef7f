"""ASGI applications as ingress, over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import headrace as serve
from headrace import client as driver


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"started": True}


app = FastAPI(lifespan=lifespan)


@app.middleware("http")
async def add_header(request: Any, call_next: Any) -> Any:
    response = await call_next(request)
    response.headers["x-middleware"] = "yes"
    return response


def dependency(q: int = 1) -> int:
    return q * 10


@serve.deployment
class Doubler:
    def __call__(self, x: int) -> int:
        return 2 * x


@serve.deployment
@serve.ingress(app)
class Api:
    def __init__(self, doubler: Any) -> None:
        self.doubler = doubler

    @app.get("/items/{item}")
    async def item(self, item: int, ten: int = Depends(dependency)) -> dict[str, int]:
        if item == 404:
            raise HTTPException(404, "no such item")
        return {"item": await self.doubler.remote(item), "ten": ten}

    @app.get("/fails")
    def fails(self) -> None:
        raise ValueError("secret")

    @app.get("/stream")
    async def stream(self) -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for i in range(50):
                yield f"{i},"

        return StreamingResponse(numbers())

    @app.websocket("/ws")
    async def websocket(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                if text == "close":
                    await socket.close(4000, "bye")
                    return
                await socket.send_text(str(await self.doubler.remote(int(text))))
        except WebSocketDisconnect:
            pass


def test_fastapi_works_as_an_ingress(http: httpx.Client) -> None:
    serve.run(Api.bind(Doubler.bind()), route_prefix="/api")
    answer = http.get("/api/items/3?q=2")
    assert answer.json() == {"item": 6, "ten": 20}
    assert answer.headers["x-middleware"] == "yes"
    assert http.get("/api/items/404").json() == {"detail": "no such item"}
    assert http.get("/api/items/x").status_code == 422
    assert http.get("/api/fails").status_code == 500
    assert "secret" not in http.get("/api/fails").text
    assert http.get("/api/stream").text == "".join(f"{i}," for i in range(50))
    assert "/api/openapi.json" in http.get("/api/docs").text
    assert "/items/{item}" in http.get("/api/openapi.json").json()["paths"]


def test_websockets_reach_the_replica(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Api.bind(Doubler.bind()), route_prefix="/api")
    url = (instance.http_url or "").replace("http", "ws")

    async def talk() -> None:
        async with connect(f"{url}/api/ws") as socket:
            for i in range(100):
                await socket.send(str(i))
                assert await socket.recv() == str(2 * i)
            await socket.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4000
        with pytest.raises(Exception, match=r"403|rejected|404"):
            async with connect(f"{url}/nowhere"):
                pass

    asyncio.run(talk())
