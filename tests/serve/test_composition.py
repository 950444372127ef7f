"""Graphs of deployments over HTTP: deadlines, cancellation and request ids travel down; every kind of code may call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver

from .conditions import until


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    """As the other tests', with a time limit for every request over HTTP."""
    serve.start(http_options={"port": 0, "request_timeout_s": 1.0}, rest_options={"port": 0})
    yield driver.find()
    serve.shutdown()


def make_levels() -> Any:
    """Three deployments in a row; the last one hangs and takes note of it."""

    @serve.deployment(max_ongoing_requests=20)
    class Bottom:
        def __init__(self) -> None:
            self.begun = self.cancelled = 0
            self.remaining: list[float | None] = []

        async def __call__(self, work: str) -> str:
            context = serve.get_request_context()
            assert context is not None
            if work == "id":
                return f"{context.request_id} {context.route} {context.app} {context.deployment}"
            self.begun += 1
            self.remaining.append(context.remaining_s())
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return "never"

        async def counts(self) -> tuple[int, int]:
            return self.begun, self.cancelled

        async def limits(self) -> list[float | None]:
            return self.remaining

    @serve.deployment(max_ongoing_requests=20)
    class SyncMiddle:
        def __init__(self, below: Any) -> None:
            self.below = below

        def __call__(self, work: str) -> str:
            return str(self.below.remote(work).result())

    @serve.deployment(max_ongoing_requests=20)
    class Middle:
        def __init__(self, below: Any) -> None:
            self.below = below

        async def __call__(self, work: str) -> str:
            return str(await self.below.remote(work))

    @serve.deployment(max_ongoing_requests=20)
    class Top:
        def __init__(self, middle: Any, sync_middle: Any) -> None:
            self.middle = middle
            self.sync_middle = sync_middle

        async def __call__(self, request: Request) -> str:
            middle = self.sync_middle if "sync" in request.query_params else self.middle
            # A task of its own and a response that is passed on: both belong to the request all the same.
            task = asyncio.create_task(as_coroutine(middle.remote(request.query_params["work"])))
            return str(await task)

    async def as_coroutine(response: Any) -> Any:
        return await response

    bottom = Bottom.bind()
    return Top.bind(Middle.bind(bottom), SyncMiddle.bind(bottom))


@pytest.fixture
def levels(http: httpx.Client) -> Any:
    serve.run(make_levels())
    return serve.get_deployment_handle("Bottom", "default")


def test_the_request_id_travels_down(http: httpx.Client, levels: Any) -> None:
    for middle in ("", "&sync"):
        answer = http.get(f"/?work=id{middle}", headers={"x-request-id": "abc-1"})
        assert answer.text == "abc-1 / default Bottom"
        assert answer.headers["x-request-id"] == "abc-1"
    answer = http.get("/?work=id")
    assert answer.headers["x-request-id"] == answer.text.split()[0] != "abc-1"


@pytest.mark.parametrize("middle", ["", "&sync"])
def test_the_time_limit_of_a_request_ends_the_work_all_the_way_down(
    http: httpx.Client, levels: Any, middle: str
) -> None:
    answer = http.get(f"/?work=hang{middle}")
    assert answer.status_code == 408
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    until(lambda: levels.counts.remote().result() == (1, 1))
    (remaining,) = levels.limits.remote().result()
    assert remaining is not None and 0 < remaining <= 1.0
    assert http.get("/?work=id").status_code == 200


@pytest.mark.parametrize("middle", ["", "&sync"])
def test_a_client_that_leaves_ends_the_work_all_the_way_down(
    http: httpx.Client, instance: driver.Client, levels: Any, middle: str
) -> None:
    assert instance.session.http is not None
    with socket.create_connection(instance.session.http) as client:
        client.sendall(f"GET /?work=hang{middle} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        until(lambda: levels.counts.remote().result()[0] == 1)
    until(lambda: levels.counts.remote().result() == (1, 1))


async def test_clients_that_leave_at_any_moment_free_every_place_all_the_way_down(
    http: httpx.Client, instance: driver.Client
) -> None:
    def make(name: str, sync: bool) -> Any:
        @serve.deployment(name=name, max_ongoing_requests=3, max_concurrent_sync=3)
        class Stage:
            def __init__(self, below: Any = None) -> None:
                self.below = below
                self.here = 0
                self.all_here = asyncio.Event()

            async def meet(self) -> int:
                """Returns when as many are here as there are places."""
                self.here += 1
                if self.here == 3:
                    self.all_here.set()
                await self.all_here.wait()
                return self.here

        class Async(Stage.func_or_class):  # type: ignore[misc]
            async def __call__(self) -> str:
                await asyncio.sleep(0.002)
                return await self.below.remote() if self.below else "down"

        class Sync(Stage.func_or_class):  # type: ignore[misc]
            def __call__(self) -> str:
                return str(self.below.remote().result())

        return Stage.options(Sync if sync else Async)

    graph = make("Top", False).bind(make("Middle", True).bind(make("Bottom", False).bind()))
    await asyncio.to_thread(serve.run, graph)
    assert instance.session.http is not None
    host, port = instance.session.http

    async def leave_early(delay_s: float) -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(delay_s)
        writer.transport.abort()

    for _ in range(5):
        await asyncio.gather(*(leave_early(i * 0.0005) for i in range(40)))
    async with asyncio.timeout(20):
        for name in ("Top", "Middle", "Bottom"):
            meeting = serve.get_deployment_handle(name, "default").meet
            assert await asyncio.gather(*(meeting.remote() for _ in range(3))) == [3, 3, 3]
    assert (await asyncio.to_thread(http.get, "/")).text == "down"


def test_a_chain_of_responses_fans_out_and_in(http: httpx.Client) -> None:
    @serve.deployment
    class Add:
        def __init__(self, n: int) -> None:
            self.n = n

        async def __call__(self, x: int) -> int:
            return x + self.n

    @serve.deployment
    class Join:
        async def __call__(self, a: int, b: int, *, c: int) -> list[int]:
            return [a, b, c]

    @serve.deployment
    class Graph:
        def __init__(self, one: Any, ten: Any, join: Any) -> None:
            self.one, self.ten, self.join = one, ten, join

        async def __call__(self, x: int) -> list[int]:
            shared = self.one.remote(x)  # not awaited here: each call that needs it waits for it
            return list(await self.join.remote(self.ten.remote(shared), shared, c=self.ten.remote(self.one.remote(0))))

        async def broken(self) -> Any:
            return await self.join.remote(self.one.remote("no number"), 1, c=2)

    handle = serve.run(Graph.bind(Add.options(name="One").bind(1), Add.options(name="Ten").bind(10), Join.bind()))
    assert handle.remote(1).result(timeout_s=10) == [12, 2, 11]
    with pytest.raises(TypeError, match="concatenate"):
        handle.broken.remote().result(timeout_s=10)


def test_a_hundred_parallel_calls_of_a_thousand_requests(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=10)
    class Leaf:
        async def __call__(self, x: int) -> int:
            return x

    @serve.deployment(max_ongoing_requests=10)
    class Fan:
        def __init__(self, leaf: Any) -> None:
            self.leaf = leaf

        async def __call__(self, n: int) -> int:
            return sum(await asyncio.gather(*(self.leaf.remote(i) for i in range(n))))

    handle = serve.run(Fan.bind(Leaf.options(num_replicas=2).bind()))
    responses = [handle.remote(100) for _ in range(20)]
    assert {response.result(timeout_s=30) for response in responses} == {4950}


def test_what_a_handler_may_return_or_be(http: httpx.Client) -> None:
    async def later(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    @serve.deployment
    class SyncGenerator:
        def __call__(self, request: Request) -> Iterator[str]:
            for i in range(3):
                yield f"{i} "

    @serve.deployment
    class ReturnsCoroutine:
        def __call__(self, request: Request) -> Any:
            return later("awaited")

    @serve.deployment
    class ReturnsGenerator:
        async def __call__(self, request: Request) -> Any:
            return (f"{i} " for i in range(3))

    @serve.deployment
    class StaticAndClassMethods:
        @staticmethod
        async def __call__(request: Request) -> str:
            return request.url.path

        @classmethod
        def name(cls) -> str:
            return cls.__name__

    @serve.deployment
    def function(request: Request) -> dict[str, str]:
        return {"path": request.url.path}

    @serve.deployment
    async def async_function() -> str:
        return "no parameter at all"

    for index, (target, expected) in enumerate(
        [
            (SyncGenerator, "0 1 2 "),
            (ReturnsCoroutine, "awaited"),
            (ReturnsGenerator, "0 1 2 "),
            (StaticAndClassMethods, "/4"),
            (function, '{"path":"/5"}'),
            (async_function, "no parameter at all"),
        ],
        start=1,
    ):
        handle = serve.run(target.bind(), name=str(index), route_prefix=f"/{index}")
        assert http.get(f"/{index}").text == expected
        if target is StaticAndClassMethods:
            assert handle.name.remote().result() == "StaticAndClassMethods"
    handle = serve.get_app_handle("2")
    assert handle.remote(None).result(timeout_s=10) == "awaited"


def test_recursion_over_two_deployments(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=50)
    class Odd:
        async def __call__(self, n: int) -> bool:
            return n != 0 and bool(await serve.get_deployment_handle("Even").remote(n - 1))

    @serve.deployment(max_ongoing_requests=50)
    class Even:
        def __init__(self, odd: Any) -> None:
            self.odd = odd

        async def __call__(self, n: int) -> bool:
            return n == 0 or bool(await self.odd.remote(n - 1))

    handle = serve.run(Even.bind(Odd.bind()))
    assert handle.remote(21).result(timeout_s=20) is False
    assert handle.remote(20).result(timeout_s=20) is True


def test_one_application_calls_another(http: httpx.Client) -> None:
    @serve.deployment
    class Model:
        async def __call__(self, x: int) -> int:
            return 2 * x

    @serve.deployment
    class Front:
        async def __call__(self, request: Request) -> int:
            return int(await serve.get_app_handle("models").remote(21))

    serve.run(Model.bind(), name="models", route_prefix=None)
    serve.run(Front.bind(), name="front")
    assert http.get("/").json() == 42


def test_forked_processes_may_call_too(http: httpx.Client) -> None:
    def call_in_a_fork(handle: Any) -> Any:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        process = context.Process(target=lambda: answers.put(handle.remote(21).result(timeout_s=10)))
        process.start()
        process.join(20)
        assert process.exitcode == 0
        return answers.get()

    @serve.deployment
    class Model:
        async def __call__(self, x: int) -> int:
            return 2 * x

    @serve.deployment
    class Forks:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self) -> Any:
            return call_in_a_fork(self.model)

    handle = serve.run(Forks.bind(Model.bind()))
    assert handle.remote().result(timeout_s=30) == 42
    model = serve.get_deployment_handle("Model", "default")
    assert model.remote(1).result() == 2
    assert call_in_a_fork(model) == 42
    assert model.remote(2).result() == 4, "the parent's connections are as they were"


def test_calls_from_a_thread_and_from_a_loop_of_the_users(http: httpx.Client) -> None:
    @serve.deployment
    class Model:
        async def __call__(self, x: int) -> int:
            return 2 * x

    @serve.deployment
    class Threads:
        def __init__(self, model: Any) -> None:
            self.model = model

        async def __call__(self, request: Request) -> list[int]:
            return list(await asyncio.gather(*(asyncio.to_thread(work) for work in self.works())))

        def works(self) -> list[Callable[[], int]]:
            async def on_own_loop() -> int:
                return int(await self.model.remote(2))

            return [lambda: int(self.model.remote(1).result()), lambda: asyncio.run(on_own_loop())]

    serve.run(Threads.bind(Model.bind()))
    assert http.get("/").json() == [2, 4]
