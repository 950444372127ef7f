"""Local testing mode: a whole application in this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from headrace.batching import batch
from headrace.context import get_replica_context, get_request_context
from headrace.deployments import Application, deployment
from headrace.exceptions import (
    BackPressureError,
    ConfigError,
    HeadraceError,
    RequestCancelledError,
    RequestTimeoutError,
)
from headrace.handle import DeploymentHandle
from headrace.local_testing import make_local_deployment_handle, stop_local_applications


@pytest.fixture(autouse=True)
def _stop() -> Iterator[None]:
    yield
    stop_local_applications()


def run(app: Application[Any], name: str = "default") -> DeploymentHandle[Any]:
    return make_local_deployment_handle(app, name)


class Oops(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@deployment(max_ongoing_requests=100)
class Leaf:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor
        self.threshold = 0

    def reconfigure(self, user_config: dict[str, int]) -> None:
        self.threshold = user_config["threshold"]

    def __call__(self, x: int) -> int:
        return self.factor * x

    async def later(self, x: int) -> int:
        await asyncio.sleep(0)
        return self.factor * x

    def get_threshold(self) -> int:
        return self.threshold

    def fail(self, code: int) -> None:
        raise Oops(code)

    async def hang(self) -> None:
        await asyncio.get_running_loop().create_future()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_later(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    def thread(self) -> tuple[int, bool]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return threading.get_ident(), False
        return threading.get_ident(), True

    def where(self) -> tuple[str, str, bool]:
        context = get_replica_context()
        return context.app_name, context.deployment, context.servable_object is self

    def request(self) -> tuple[str, str]:
        context = get_request_context()
        assert context is not None
        return context.multiplexed_model_id, context.request_id

    @batch(max_batch_size=4, batch_wait_timeout_s=0.05)
    async def batched(self, items: list[int]) -> list[tuple[int, int]]:
        return [(item, len(items)) for item in items]


@deployment
class Root:
    def __init__(self, *leaves: DeploymentHandle[Any]) -> None:
        self.leaves = leaves

    async def __call__(self, x: int) -> list[int]:
        return list(await asyncio.gather(*(leaf.remote(x) for leaf in self.leaves)))

    async def hang(self) -> None:
        await self.leaves[0].hang.remote()

    async def where(self) -> list[tuple[str, str, bool]]:
        return [await leaf.where.remote() for leaf in self.leaves]

    def in_thread(self, x: int) -> int:
        result: int = self.leaves[0].remote(x).result(timeout_s=5)
        return result

    async def stream(self, n: int) -> AsyncIterator[int]:
        async for item in self.leaves[0].options(stream=True).count_later.remote(n):
            yield 10 * item

    async def own_request_id(self) -> bool:
        context = get_request_context()
        assert context is not None
        _, downstream = await self.leaves[0].request.remote()
        return bool(context.request_id == downstream)


def test_handle_calls_methods_of_every_kind() -> None:
    handle = run(Leaf.bind(3))
    assert isinstance(handle, DeploymentHandle)
    assert handle.remote(2).result() == 6
    assert handle.later.remote(2).result(timeout_s=5) == 6
    assert handle.options(method_name="later").remote(x=3).result() == 9


async def test_responses_can_be_awaited() -> None:
    handle = run(Leaf.bind())
    assert await handle.remote(2) == 4
    assert await asyncio.gather(*(handle.later.remote(i) for i in range(20))) == [2 * i for i in range(20)]


def test_functions_are_deployed_too() -> None:
    @deployment
    async def double(x: int) -> int:
        return 2 * x

    assert run(double.bind()).remote(4).result() == 8


def test_nested_applications_become_handles_to_the_same_replicas() -> None:
    shared = Leaf.bind(1)
    handle = run(Root.bind(shared, Leaf.bind(10), shared))
    assert handle.remote(3).result() == [3, 30, 3]
    assert handle.in_thread.remote(4).result() == 4


def test_responses_can_be_arguments() -> None:
    handle = run(Leaf.bind(2))
    assert handle.remote(handle.later.remote(handle.remote(1))).result() == 8


def test_streams_are_read_sync_and_async() -> None:
    handle = run(Root.bind(Leaf.bind()))
    leaf = run(Leaf.bind())
    assert list(leaf.options(stream=True).count.remote(3)) == [0, 1, 2]
    assert list(handle.options(stream=True).stream.remote(3)) == [0, 10, 20]

    async def collect() -> list[int]:
        return [item async for item in leaf.options(stream=True).count_later.remote(4)]

    assert asyncio.run(collect()) == [0, 1, 2, 3]


def test_exceptions_arrive_as_themselves() -> None:
    with pytest.raises(Oops) as caught:
        run(Leaf.bind()).fail.remote(7).result()
    assert caught.value.code == 7
    assert "raise Oops(code)" in str(caught.value.__cause__)


def test_constructor_that_raises_fails_the_run() -> None:
    @deployment
    class Broken:
        def __init__(self) -> None:
            raise Oops(1)

    with pytest.raises(Oops):
        run(Broken.bind())


def test_cancelling_reaches_all_the_way_down() -> None:
    events: list[threading.Event] = []

    @deployment
    class Hanging:
        def __init__(self) -> None:
            self.started, self.cancelled = threading.Event(), threading.Event()
            events.extend([self.started, self.cancelled])

        async def hang(self) -> None:
            self.started.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cancelled.set()

    response = run(Root.bind(Hanging.bind())).hang.remote()
    started, cancelled = events
    assert started.wait(5)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=5)
    assert cancelled.wait(5)


def test_waiting_ends_at_the_timeout_and_requests_at_their_deadline() -> None:
    handle = run(Leaf.bind())
    response = handle.hang.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.05)
    with pytest.raises(RequestTimeoutError):
        handle.options(timeout_s=0.05).hang.remote().result()
    response.cancel()


def test_sync_methods_run_on_a_thread_and_not_on_the_loop() -> None:
    ident, on_loop = run(Leaf.bind()).thread.remote().result()
    assert ident != threading.get_ident()
    assert not on_loop


def test_user_config_reaches_reconfigure() -> None:
    assert run(Leaf.options(user_config={"threshold": 5}).bind()).get_threshold.remote().result() == 5
    with pytest.raises(ConfigError, match="no method reconfigure"):
        run(Root.options(user_config={}).bind())


def test_each_replica_knows_itself() -> None:
    handle = run(Root.bind(Leaf.bind(), Leaf.bind()), name="shop")
    assert handle.where.remote().result() == [("shop", "Leaf", True), ("shop", "Leaf_1", True)]
    with pytest.raises(HeadraceError):
        get_replica_context()


def test_request_context_travels() -> None:
    handle = run(Root.bind(Leaf.bind()))
    assert handle.own_request_id.remote().result()
    leaf = run(Leaf.bind())
    assert leaf.options(multiplexed_model_id="m1").request.remote().result()[0] == "m1"


def test_batches_are_formed() -> None:
    handle = run(Leaf.bind())
    responses = [handle.batched.remote(i) for i in range(4)]
    assert [response.result() for response in responses] == [(i, 4) for i in range(4)]


def test_no_more_than_max_ongoing_requests_run_and_the_queue_has_its_limit() -> None:
    @deployment(max_ongoing_requests=2, max_queued_requests=1)
    class Gate:
        def __init__(self) -> None:
            self.running = self.most = 0

        async def __call__(self) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.05)
            self.running -= 1

        async def get_most(self) -> int:
            return self.most

    handle = run(Gate.bind())
    responses = [handle.remote() for _ in range(4)]
    with pytest.raises(BackPressureError):
        responses[3].result(timeout_s=5)
    for response in responses[:3]:
        response.result(timeout_s=5)
    assert handle.get_most.remote().result() == 2


def test_test_doubles_reach_the_constructor_as_they_are() -> None:
    @deployment
    class Keeper:
        def __init__(self, client: Any, mixed: list[Any]) -> None:
            self.client, self.mixed = client, mixed

        async def ids(self) -> list[int]:
            return [id(self.client), id(self.mixed[1]), await self.mixed[0].remote(1)]

    double = threading.Lock()
    assert run(Keeper.bind(double, [Leaf.bind(5), double])).ids.remote().result() == [id(double), id(double), 5]


def test_handles_can_be_arguments_of_calls() -> None:
    @deployment
    class Caller:
        async def __call__(self, handle: DeploymentHandle[Any], x: int) -> Any:
            return await handle.remote(x)

    assert run(Caller.bind()).remote(run(Leaf.bind(7), name="other"), 2).result() == 14


def test_stopped_application_says_so() -> None:
    handle = run(Leaf.bind())
    stop_local_applications("default")
    with pytest.raises(HeadraceError, match="was shut down"):
        handle.remote(1)


def test_two_applications_of_one_name_live_side_by_side() -> None:
    first, second = run(Leaf.bind(2)), run(Leaf.bind(3))
    assert (first.remote(1).result(), second.remote(1).result()) == (2, 3)


def test_starting_takes_milliseconds() -> None:
    run(Leaf.bind())
    started = time.perf_counter()
    run(Root.bind(Leaf.bind(), Leaf.bind()))
    assert time.perf_counter() - started < 0.5


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Leaf\.bind"):
        run(Leaf)  # type: ignore[arg-type]
