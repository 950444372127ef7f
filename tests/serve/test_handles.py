"""What handles and responses promise: from any thread and any loop, cancelled, passed on, streamed."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, DeploymentUnavailableError, HeadraceError, RequestCancelledError

from .conditions import until


def make_service() -> Any:
    """Made in a function, it travels by value: replicas need not import the tests."""

    @serve.deployment(max_ongoing_requests=100)
    class Service:
        def __init__(self) -> None:
            self.cancelled = 0
            self.begun = 0

        async def __call__(self, x: Any = None) -> Any:
            return x

        async def hang(self) -> None:
            self.begun += 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        async def endless(self) -> Any:
            self.begun += 1
            try:
                n = 0
                while True:
                    yield n
                    n += 1
            finally:
                self.cancelled += 1

        def stubborn(self, gate: threading.Event | None = None) -> str:
            return "done all the same"

        async def counts(self) -> tuple[int, int]:
            return self.begun, self.cancelled

        async def chain(self, depth: int) -> None:
            if depth:
                await self.chain(depth - 1)
            raise LookupError("deep down")

        async def swallow(self) -> str:
            self.begun += 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.cancelled += 1
            return "nobody reads this"

        async def own_cancel(self) -> None:
            raise asyncio.CancelledError

        async def times_out(self) -> None:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(600)

    return Service


@pytest.fixture(scope="module")
def handle(instance: driver.Client) -> Iterator[serve.DeploymentHandle[Any]]:
    yield serve.run(make_service().bind(), name="service")


def test_handles_work_from_many_threads_at_once(handle: Any) -> None:
    def calls(thread: int) -> list[Any]:
        responses = [handle.remote((thread, i)) for i in range(50)]
        return [response.result(timeout_s=30) for response in responses]

    with ThreadPoolExecutor(8) as pool:
        for thread, results in enumerate(pool.map(calls, range(8))):
            assert results == [(thread, i) for i in range(50)]


def test_handles_work_from_several_event_loops_at_once(handle: Any) -> None:
    async def calls(thread: int) -> list[Any]:
        return list(await asyncio.gather(*(handle.remote((thread, i)) for i in range(50))))

    with ThreadPoolExecutor(4) as pool:
        for thread, results in enumerate(pool.map(lambda thread: asyncio.run(calls(thread)), range(4))):
            assert results == [(thread, i) for i in range(50)]


def test_the_result_can_be_asked_for_again(handle: Any) -> None:
    response = handle.remote({"a": 1})
    assert response.result() is response.result()

    async def twice() -> tuple[Any, Any]:
        response = handle.remote([1])
        return await response, await response

    first, second = asyncio.run(twice())
    assert first == second == [1]


def test_nobody_needs_to_wait_for_a_call(handle: Any) -> None:
    begun = handle.counts.remote().result()[0]
    response = handle.hang.remote()
    until(lambda: handle.counts.remote().result()[0] == begun + 1)
    response.cancel()


def test_cancel_reaches_the_running_method_and_is_told_to_whoever_waits(handle: Any) -> None:
    begun, cancelled = handle.counts.remote().result()
    response = handle.hang.remote()
    until(lambda: handle.counts.remote().result()[0] == begun + 1)
    assert not response.cancelled() and not response.done()
    waiting = ThreadPoolExecutor(1).submit(response.result)
    response.cancel()
    assert response.cancelled()
    with pytest.raises(RequestCancelledError):
        waiting.result(10)
    until(lambda: handle.counts.remote().result()[1] == cancelled + 1)


def test_cancelling_what_is_answered_does_nothing(handle: Any) -> None:
    response = handle.remote(1)
    assert response.result() == 1
    response.cancel()
    assert response.result() == 1


def test_a_method_may_swallow_its_cancellation(handle: Any) -> None:
    begun, cancelled = handle.counts.remote().result()
    response = handle.swallow.remote()
    until(lambda: handle.counts.remote().result()[0] == begun + 1)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result()
    until(lambda: handle.counts.remote().result()[1] == cancelled + 1)
    assert handle.remote("alive").result() == "alive"


async def test_a_cancelled_task_cancels_what_it_awaits(handle: Any) -> None:
    begun, cancelled = await handle.counts.remote()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await handle.hang.remote()
    while await handle.counts.remote() != (begun + 1, cancelled + 1):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_responses_go_into_asyncios_functions(handle: Any) -> None:
    assert await asyncio.wait_for(handle.remote(1), 10) == 1
    assert await asyncio.shield(asyncio.ensure_future(handle.remote(2))) == 2
    results = await asyncio.gather(handle.remote(1), handle.chain.remote(0), return_exceptions=True)
    assert results[0] == 1 and isinstance(results[1], LookupError)
    done = [await first for first in asyncio.as_completed([handle.remote(1), handle.remote(1)])]
    assert done == [1, 1]


def test_a_stream_that_is_left_ends_at_its_source(handle: Any) -> None:
    begun, ended = handle.counts.remote().result()
    stream = handle.options(stream=True).endless.remote()
    assert next(stream) == 0
    del stream
    until(lambda: handle.counts.remote().result() == (begun + 1, ended + 1))


async def test_a_stream_can_be_cancelled(handle: Any) -> None:
    begun, ended = await handle.counts.remote()
    stream = handle.options(stream=True).endless.remote()
    assert await anext(stream) == 0
    stream.cancel()
    with pytest.raises(RequestCancelledError):
        async for _ in stream:
            pass
    while await handle.counts.remote() != (begun + 1, ended + 1):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_a_slow_reader_holds_up_the_source_and_nobody_else(handle: Any) -> None:
    stream = handle.options(stream=True).endless.remote()
    assert next(stream) == 0
    assert handle.remote("other").result(timeout_s=10) == "other"
    assert [next(stream) for _ in range(10_000)] == list(range(1, 10_001))
    stream.cancel()


def test_streams_and_single_responses_are_not_each_other(handle: Any) -> None:
    stream = handle.options(stream=True).endless.remote()
    with pytest.raises(TypeError, match="for item in"):
        stream.result()
    stream.cancel()
    with pytest.raises(TypeError, match="stream"):
        handle.remote(handle.options(stream=True).endless.remote()).result(timeout_s=10)


def test_the_traceback_shows_where_in_the_replica_it_was_raised(handle: Any) -> None:
    with pytest.raises(LookupError, match="deep down") as caught:
        handle.chain.remote(3).result()
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("await self.chain(depth - 1)") == 3
    assert "headrace/replica" not in text and "headrace/wire" not in text


@pytest.mark.parametrize(("method", "expected"), [("own_cancel", RequestCancelledError), ("times_out", TimeoutError)])
def test_what_asyncio_raises_in_a_method_arrives(handle: Any, method: str, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        handle.options(method_name=method).remote().result(timeout_s=10)


def test_handles_can_be_pickled_copied_and_passed_to_replicas(handle: Any) -> None:
    for other in (pickle.loads(pickle.dumps(handle.chain)), copy.deepcopy(handle), copy.copy(handle)):
        assert other.deployment_name == "Service" and other.app_name == "service"
    assert pickle.loads(pickle.dumps(handle)).remote(1).result() == 1
    assert handle.remote(handle.hang).result().deployment_name == "Service"


def test_options_add_up_and_leave_the_handle_as_it_was(handle: Any) -> None:
    counts = handle.options(method_name="counts").options(timeout_s=10)
    assert isinstance(counts.remote().result(), tuple)
    assert handle.remote("itself").result() == "itself"
    assert handle.counts.options(multiplexed_model_id="m").remote().result()
    with pytest.raises(ConfigError, match=r"stream.*bool"):
        handle.options(stream="yes")
    with pytest.raises(TypeError, match="multiplex_id"):
        handle.options(multiplex_id="m")


class ByHint(serve.RoutingPolicy):
    """Sends requests to the first replica that got one, and others with the hint "elsewhere"."""

    def __init__(self) -> None:
        self.first = ""

    def choose(self, request: Any, replicas: Sequence[Any]) -> Any:
        self.first = self.first or replicas[0].replica_id
        away = request.routing_hint == "elsewhere"
        return next((replica for replica in replicas if (replica.replica_id != self.first) == away), None)


def test_a_hint_reaches_the_policy_and_goes_no_further(instance: driver.Client) -> None:
    @serve.deployment(num_replicas=2, request_router_config={"request_router_class": ByHint})
    class Which:
        async def __call__(self) -> str:
            return serve.get_replica_context().replica_id.unique_id

    handle: Any = serve.run(Which.bind(), name="hinted", route_prefix=None)
    elsewhere = handle.options(routing_hint="elsewhere")
    first = handle.remote().result(timeout_s=30)
    second = elsewhere.remote().result(timeout_s=30)
    assert first != second
    assert handle.options().remote().result(timeout_s=30) == first
    assert elsewhere.options(timeout_s=30).remote().result() == second
    assert pickle.loads(pickle.dumps(elsewhere)).remote().result(timeout_s=30) == first


def test_a_handle_knows_whether_there_are_replicas(handle: Any) -> None:
    handle.remote(1).result()
    assert handle.running_replicas_populated()
    assert not serve.DeploymentHandle("Nothing", "nowhere").running_replicas_populated()


def test_private_methods_cannot_be_called_by_their_double_underscores(handle: Any) -> None:
    with pytest.raises(AttributeError):
        handle.__init_subclass_x__.remote()
    with pytest.raises(AttributeError, match="no method '__init__'"):
        handle.options(method_name="__init__").remote().result(timeout_s=10)


def test_wrong_arguments_are_a_type_error_as_in_a_plain_call(handle: Any) -> None:
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
        handle.remote(1, 2).result(timeout_s=10)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        handle.remote(y=1).result(timeout_s=10)


def test_handles_to_what_does_not_exist(handle: Any) -> None:
    with pytest.raises(HeadraceError, match=r"'servise' does not exist; did you mean 'service'"):
        serve.get_app_handle("servise")
    with pytest.raises(
        HeadraceError, match=r"'Servise' does not exist in application 'service'; did you mean 'Service'"
    ):
        serve.get_deployment_handle("Servise", "service")
    unknown = serve.DeploymentHandle("Servise", "service")
    with pytest.raises(DeploymentUnavailableError, match="did you mean 'Service'"):
        unknown.remote().result(timeout_s=10)


def test_an_exception_whose_class_cannot_be_unpickled_still_says_what_it_was(instance: driver.Client) -> None:
    @serve.deployment
    class Odd:
        def __call__(self) -> None:
            class Picky(Exception):
                def __init__(self, a: int, *, b: int) -> None:
                    super().__init__(f"{a} and {b}")

            raise Picky(1, b=2)

    odd = serve.run(Odd.bind(), name="odd", route_prefix=None)
    with pytest.raises(serve.exceptions.RemoteError, match=r"Picky: 1 and 2"):
        odd.remote().result(timeout_s=10)
    serve.delete("odd")
