"""Applications over real HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

import headrace as serve
from headrace import client as driver


@serve.deployment
class Echo:
    async def __call__(self, request: Request) -> Any:
        return {
            "method": request.method,
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "query": dict(request.query_params),
            "body": (await request.body()).decode(),
            "header": request.headers.get("x-custom"),
        }


def test_a_request_reaches_the_handler_whole(http: httpx.Client) -> None:
    serve.run(Echo.bind(), route_prefix="/echo")
    answer = http.post("/echo/a/b?x=1", content=b"text", headers={"x-custom": "yes"})
    assert answer.json() == {
        "method": "POST",
        "path": "/echo/a/b",
        "root_path": "/echo",
        "query": {"x": "1"},
        "body": "text",
        "header": "yes",
    }
    assert http.put("/echo").json()["body"] == ""


class Point(BaseModel):
    x: int


@dataclasses.dataclass
class Pair:
    a: int
    b: str


RESULTS: list[tuple[Any, str, Any]] = [
    ("text", "text/plain; charset=utf-8", "text"),
    ({"a": [1, None]}, "application/json", {"a": [1, None]}),
    ([1, 2], "application/json", [1, 2]),
    (3, "application/json", 3),
    (Point(x=1), "application/json", {"x": 1}),
    (Pair(1, "b"), "application/json", {"a": 1, "b": "b"}),
    (np.float32(0.5), "application/json", 0.5),
    (np.arange(3), "application/json", [0, 1, 2]),
    (JSONResponse({"teapot": True}, 418), "application/json", {"teapot": True}),
]


@serve.deployment
class Returns:
    def __init__(self, values: list[Any]) -> None:
        self.values = values

    async def __call__(self, request: Request) -> Any:
        return self.values[int(request.query_params["i"])]


def test_results_of_all_kinds_become_responses(http: httpx.Client) -> None:
    serve.run(Returns.bind([value for value, _, _ in RESULTS]))
    for i, (_, content_type, expected) in enumerate(RESULTS):
        answer = http.get("/", params={"i": i})
        assert answer.headers["content-type"] == content_type
        assert (answer.text if content_type.startswith("text") else answer.json()) == expected
    assert http.get("/", params={"i": 8}).status_code == 418


@serve.deployment
class Fails:
    async def __call__(self, request: Request) -> Any:
        if request.query_params.get("how") == "unserializable":
            return {"model": object()}
        raise ValueError("a secret of the application's")


def test_a_user_exception_is_500_with_the_request_id_and_without_its_text(http: httpx.Client) -> None:
    serve.run(Fails.bind())
    answer = http.get("/", headers={"x-request-id": "my-id"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == "my-id"
    assert answer.headers["x-request-id"] == "my-id"
    assert "secret" not in answer.text and "Traceback" not in answer.text
    answer = http.get("/?how=unserializable")
    assert answer.status_code == 500


def test_an_unknown_route_is_404_and_names_the_routes(http: httpx.Client) -> None:
    serve.run(Echo.bind(), route_prefix="/echo")
    answer = http.get("/ecco")
    assert answer.status_code == 404
    assert answer.json()["routes"] == ["/echo"]
    assert http.get("/echoes").status_code == 404
    assert http.get("/-/routes").json() == {"/echo": "default"}
    assert http.get("/-/healthz").text == "success"


@serve.deployment
class Typed:
    async def __call__(self, point: Point, scale: int = 2) -> dict[str, int]:
        return {"x": point.x * scale}


def test_typed_handlers_get_validated_arguments(http: httpx.Client) -> None:
    serve.run(Typed.bind(), route_prefix="/typed")
    assert http.post("/typed", json={"point": {"x": 2}}).json() == {"x": 4}
    assert http.post("/typed", json={"point": {"x": 2}, "scale": 5}).json() == {"x": 10}
    wrong = http.post("/typed", json={"point": {"x": "no"}})
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"][-1] == "x"
    assert http.post("/typed", content=b"{no json").status_code == 400
    assert "/typed" in json.dumps(http.get("/typed/openapi.json").json()["paths"])
    assert "text/html" in http.get("/typed/docs").headers["content-type"]


@serve.deployment(max_ongoing_requests=100)
class Batched:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
    async def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        return [{"text": text.upper(), "size": len(texts)} for text in texts]


def test_a_batched_handler_takes_one_text_per_request(http: httpx.Client) -> None:
    serve.run(Batched.bind())

    async def many() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=http.base_url) as client:
            answers = await asyncio.gather(*(client.post("/", json=f"t{i}") for i in range(32)))
        return [answer.json() for answer in answers]

    answers = asyncio.run(many())
    assert [answer["text"] for answer in answers] == [f"T{i}" for i in range(32)]
    assert max(answer["size"] for answer in answers) > 1


@serve.deployment
class Streams:
    def __call__(self, request: Request) -> Any:
        kind = request.query_params["kind"]
        if kind == "sync":
            return StreamingResponse((f"{i}\n" for i in range(100)), media_type="text/event-stream")
        if kind == "async":
            return self.numbers()
        if kind == "large":
            return StreamingResponse(iter([b"x" * 1_000_000] * 20))
        if kind == "whole":
            return b"y" * 5_000_000
        return self.broken()

    async def numbers(self) -> AsyncIterator[str]:
        for i in range(100):
            yield f"{i}\n"

    def broken(self) -> Iterator[str]:
        yield "first"
        raise ValueError("broken")


def test_streams_arrive_whole_and_in_order(http: httpx.Client) -> None:
    serve.run(Streams.bind())
    expected = "".join(f"{i}\n" for i in range(100))
    answer = http.get("/?kind=sync")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == expected
    assert http.get("/?kind=async").text == expected
    assert len(http.get("/?kind=large").content) == 20_000_000
    assert len(http.get("/?kind=whole").content) == 5_000_000


def test_a_stream_that_breaks_off_is_seen_as_broken_by_the_client(http: httpx.Client) -> None:
    serve.run(Streams.bind())
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/?kind=broken")


@serve.deployment
class Trickle:
    async def __call__(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "first"
            await asyncio.sleep(30)
            yield "second"

        return StreamingResponse(chunks())


def test_a_chunk_is_passed_on_when_it_is_there(http: httpx.Client) -> None:
    serve.run(Trickle.bind())
    with http.stream("GET", "/") as answer:
        started = time.monotonic()
        assert next(answer.iter_text()) == "first"
        assert time.monotonic() - started < 10


@serve.deployment
class Upload:
    async def __call__(self, request: Request) -> dict[str, int]:
        size = most = 0
        async for chunk in request.stream():
            size += len(chunk)
            most = max(most, psutil.Process().memory_info().rss)
        return {"size": size, "most": most}


def test_a_large_upload_passes_with_bounded_memory(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Upload.bind())
    size = 200 * 1024 * 1024
    piece = bytes(1024 * 1024)
    before = http.post("/", content=b"x").json()["most"]
    proxies = [psutil.Process(proxy.pid) for proxy in instance.status().proxies if proxy.pid]
    proxy_before = max(proxy.memory_info().rss for proxy in proxies)
    answer = http.post("/", content=(piece for _ in range(size // len(piece)))).json()
    assert answer["size"] == size
    assert answer["most"] - before < 40 * 1024 * 1024
    assert max(proxy.memory_info().rss for proxy in proxies) - proxy_before < 40 * 1024 * 1024
    headers = {"content-length": str(size)}
    assert http.post("/", content=(piece for _ in range(size // len(piece))), headers=headers).json()["size"] == size


@serve.deployment
class Cancelled:
    def __init__(self) -> None:
        self.cancelled = 0
        self.started = 0

    async def __call__(self) -> None:
        self.started += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def counts(self) -> tuple[int, int]:
        return self.started, self.cancelled


@serve.deployment
class Outer:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, request: Request) -> Any:
        return await asyncio.gather(self.inner.remote(), self.inner.remote())


def _until(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        threading.Event().wait(0.02)


def test_a_client_that_hangs_up_cancels_the_work_all_the_way_down(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Outer.bind(Cancelled.bind()))
    inner = serve.get_deployment_handle("Cancelled", "default")
    host, port = instance.session.http
    with socket.create_connection((host, port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        _until(lambda: inner.counts.remote().result()[0] == 2)
        assert inner.counts.remote().result() == (2, 0)
    _until(lambda: inner.counts.remote().result() == (2, 2))


def test_slow_clients_do_not_hold_up_others(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Echo.bind())
    slow = [socket.create_connection(instance.session.http) for _ in range(50)]
    for client in slow:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\na")
    assert http.get("/").status_code == 200
    for client in slow:
        client.close()


@serve.deployment
class Router:
    def __init__(self, a: Any, b: Any) -> None:
        self.models = {"a": a, "b": b}

    async def __call__(self, request: Request) -> Any:
        return await self.models[request.query_params["to"]].__call__.remote(request)


def test_a_request_can_be_passed_on_to_another_deployment(http: httpx.Client) -> None:
    serve.run(Router.bind(Echo.options(name="A").bind(), Echo.options(name="B").bind()))
    assert http.post("/?to=a", content=b"body").json()["body"] == "body"
    assert http.post("/?to=b", content=b"x" * 1_000_000).json()["body"] == "x" * 1_000_000


@serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
class Busy:
    async def __call__(self, request: Request) -> str:
        await asyncio.sleep(0.5)
        return "done"


def test_overload_is_503_with_retry_after(http: httpx.Client) -> None:
    serve.run(Busy.bind())

    async def many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=http.base_url) as client:
            return list(await asyncio.gather(*(client.get("/") for _ in range(5))))

    answers = asyncio.run(many())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"


@serve.deployment
class Multiplexed:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> str:
        return f"model {model_id}"

    async def __call__(self, request: Request) -> str:
        return await self.load(serve.get_multiplexed_model_id())


def test_the_model_id_of_the_header_reaches_the_loader(http: httpx.Client) -> None:
    handle = serve.run(Multiplexed.bind())
    assert http.get("/", headers={"serve_multiplexed_model_id": "m1"}).text == "model m1"
    assert handle is not None


@serve.deployment
class Whoami:
    async def __call__(self, request: Request) -> dict[str, Any]:
        context = serve.get_replica_context()
        request_context = serve.get_request_context()
        assert request_context is not None
        return {
            "app": context.app_name,
            "deployment": context.deployment,
            "request_id": request_context.request_id,
            "route": request_context.route,
            "same": context.servable_object is self,
        }


def test_handlers_can_ask_who_and_where_they_are(http: httpx.Client) -> None:
    serve.run(Whoami.bind(), name="app", route_prefix="/who")
    assert http.get("/who", headers={"x-request-id": "r"}).json() == {
        "app": "app",
        "deployment": "Whoami",
        "request_id": "r",
        "route": "/who",
        "same": True,
    }


def test_applications_live_side_by_side_and_replacing_one_leaves_the_others_alone(http: httpx.Client) -> None:
    serve.run(Whoami.bind(), name="one", route_prefix="/one")
    serve.run(Echo.bind(), name="two", route_prefix="/two")
    before = {d.name: [r.replica_id for r in d.replicas] for d in _deployments("one")}
    serve.run(Typed.bind(), name="two", route_prefix="/two")
    assert http.get("/one").json()["app"] == "one"
    assert http.post("/two", json={"point": {"x": 1}}).json() == {"x": 2}
    assert {d.name: [r.replica_id for r in d.replicas] for d in _deployments("one")} == before
    serve.delete("one")
    assert http.get("/one").status_code == 404


def _deployments(app: str) -> list[Any]:
    return next(a.deployments for a in driver.find().status().applications if a.name == app)
