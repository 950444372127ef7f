"""Calling deployments through handles, with real processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import headrace as serve
from headrace.exceptions import (
    BackPressureError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
)


class Refused(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code


@serve.deployment
class Calculator:
    async def __call__(self, x: Any) -> Any:
        return x

    def double(self, x: int) -> int:
        return 2 * x

    async def add(self, a: int, b: int = 1) -> int:
        return a + b

    def refuse(self) -> None:
        raise Refused(7, "no")

    def lambda_back(self) -> Any:
        return lambda: 41 + 1

    def unserializable(self) -> Any:
        return threading.Lock()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def count_then_fail(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise Refused(9, "later")

    async def sleep(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"


def test_values_of_all_kinds_come_back_as_they_went(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    for value in (None, 1, "text", b"bytes", {"a": [1, (2, 3)]}, {1, 2}, 1.5, Refused):
        assert handle.remote(value).result() == value


@pytest.mark.parametrize("size", [10, 1000, 50_000, 300_000, 5_000_000])
def test_arrays_come_back_equal_and_writable(http: httpx.Client, size: int) -> None:
    handle = serve.run(Calculator.bind())
    array = np.arange(size, dtype=np.float64)
    result = handle.remote({"array": array, "again": array}).result()
    assert np.array_equal(result["array"], array)
    result["array"][0] = 7
    assert handle.remote(array).result()[0] == 0


def test_sync_and_async_methods_with_defaults(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    assert handle.double.remote(21).result() == 42
    assert handle.add.remote(1).result() == 2
    assert handle.add.remote(1, b=5).result() == 6
    assert handle.options(method_name="double").remote(2).result() == 4


def test_exceptions_arrive_as_themselves_with_the_remote_traceback(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    with pytest.raises(Refused) as caught:
        handle.refuse.remote().result()
    assert caught.value.code == 7
    assert 'raise Refused(7, "no")' in str(caught.value.__cause__)


def test_an_unknown_method_is_named_with_those_there_are(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    with pytest.raises(AttributeError, match=r"no method 'doubel'.*double"):
        handle.doubel.remote(1).result()


def test_code_that_pickle_cannot_do_travels_too(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    assert handle.lambda_back.remote().result()() == 42
    y = 5
    assert handle.remote(lambda x: x + y).result()(1) == 6


def test_what_cannot_be_sent_is_a_clear_error_on_both_ways(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    with pytest.raises(SerializationError, match="lock"):
        handle.remote(threading.Lock())
    with pytest.raises(SerializationError, match="lock"):
        handle.unserializable.remote().result()


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_streams_come_item_by_item_in_order(http: httpx.Client, method: str) -> None:
    handle = serve.run(Calculator.bind())
    stream = handle.options(stream=True, method_name=method).remote(1000)
    assert list(stream) == list(range(1000))


def test_an_exception_within_a_stream_comes_after_its_items(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    stream = handle.options(stream=True).count_then_fail.remote(3)
    items = []
    with pytest.raises(Refused, match="later"):
        items.extend(stream)
    got = []
    with pytest.raises(Refused):
        for item in handle.options(stream=True).count_then_fail.remote(3):
            got.append(item)
    assert got == [0, 1, 2]


def test_stream_and_method_must_fit(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    with pytest.raises(TypeError, match="stream=True"):
        handle.count.remote(3).result()
    with pytest.raises(TypeError, match="generator"):
        list(handle.options(stream=True).double.remote(3))


def test_result_waits_no_longer_than_asked_and_the_request_goes_on(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    response = handle.sleep.remote(0.5)
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.05)
    assert response.result() == "slept"


def test_a_timeout_option_cancels_the_request(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    with pytest.raises(RequestTimeoutError):
        handle.options(timeout_s=0.1).sleep.remote(60).result()


def test_a_cancelled_response_raises_and_frees_its_place(http: httpx.Client) -> None:
    handle = serve.run(Calculator.options(max_ongoing_requests=1).bind())
    assert handle.add.remote(1).result() == 2
    response = handle.sleep.remote(60)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result()
    assert handle.add.remote(1).result(timeout_s=5) == 2


def test_a_request_that_is_cancelled_before_it_began_leaves_no_place_taken(http: httpx.Client) -> None:
    handle = serve.run(Calculator.options(max_ongoing_requests=1).bind())
    assert handle.add.remote(1).result() == 2  # connected: from now on requests leave at once
    for _ in range(50):
        # Request and cancellation leave in one frame's company, so that the replica meets both in one loop turn.
        handle.sleep.remote(60).cancel()
    assert handle.add.remote(1).result(timeout_s=10) == 2


async def test_responses_can_be_awaited_on_any_loop(http: httpx.Client) -> None:
    handle = await asyncio.to_thread(serve.run, Calculator.bind())
    assert await handle.add.remote(1) == 2
    assert [x async for x in handle.options(stream=True).count.remote(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="event loop"):
        handle.add.remote(1).result()


def test_a_response_is_passed_on_as_its_value(http: httpx.Client) -> None:
    handle = serve.run(Calculator.bind())
    assert handle.double.remote(handle.double.remote(handle.add.remote(1))).result() == 8
    with pytest.raises(SerializationError, match="argument of its own"):
        handle.remote([handle.add.remote(1)])


@serve.deployment
class Branch:
    def __init__(self, left: Any, right: Any = None, more: Any = None) -> None:
        self.left = left
        self.right = right
        self.more = more

    async def __call__(self, x: int) -> list[Any]:
        calls = [self.left.remote(x), self.right.remote(x)]
        calls += [handle.remote(x) for handle in self.more["nested"]]
        return list(await asyncio.gather(*calls))


@serve.deployment
class Leaf:
    def __init__(self, add: int) -> None:
        self.add = add

    def __call__(self, x: int) -> int:
        return x + self.add


def test_handles_are_found_anywhere_in_arguments_and_shared_deployments_run_once(http: httpx.Client) -> None:
    shared = Leaf.bind(1)
    handle = serve.run(Branch.bind(shared, right=shared, more={"nested": [shared, Leaf.options(name="Other").bind(2)]}))
    assert handle.remote(1).result() == [2, 2, 2, 3]
    assert sorted(serve.status().applications["default"].deployments) == ["Branch", "Leaf", "Other"]


@serve.deployment
class Countdown:
    async def __call__(self, n: int) -> int:
        if n == 0:
            return 0
        return 1 + await serve.get_deployment_handle("Countdown").remote(n - 1)


def test_a_deployment_may_call_itself(http: httpx.Client) -> None:
    handle = serve.run(Countdown.options(max_ongoing_requests=20).bind())
    assert handle.remote(10).result(timeout_s=20) == 10


@serve.deployment
class SyncCaller:
    def __init__(self, downstream: Any) -> None:
        self.downstream = downstream

    def __call__(self, x: int) -> int:
        return self.downstream.remote(x).result() + 1


def test_sync_methods_may_wait_for_other_deployments(http: httpx.Client) -> None:
    handle = serve.run(SyncCaller.bind(Leaf.bind(1)))
    assert handle.remote(1).result(timeout_s=10) == 3


@serve.deployment(max_ongoing_requests=2)
class Gauge:
    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def __call__(self) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return self.most


@serve.deployment(max_ongoing_requests=100)
class Many:
    def __init__(self, gauge: Any) -> None:
        self.gauge = gauge

    async def __call__(self, n: int) -> int:
        return max(await asyncio.gather(*(self.gauge.remote() for _ in range(n))))


def test_no_number_of_callers_exceeds_max_ongoing_requests(http: httpx.Client) -> None:
    gauge = Gauge.bind()
    handle = serve.run(Many.options(num_replicas=3).bind(gauge))
    direct = serve.get_deployment_handle("Gauge", "default")
    responses = [handle.remote(40) for _ in range(6)] + [direct.remote() for _ in range(40)]
    assert max(response.result(timeout_s=30) for response in responses) == 2


def test_more_than_max_queued_requests_are_refused_at_once(http: httpx.Client) -> None:
    handle = serve.run(Calculator.options(max_ongoing_requests=1, max_queued_requests=2).bind())
    assert handle.add.remote(1).result() == 2
    responses = [handle.sleep.remote(0.3) for _ in range(6)]
    outcomes = []
    for response in responses:
        try:
            outcomes.append(response.result())
        except BackPressureError as error:
            assert error.max_queued_requests == 2
            outcomes.append("refused")
    assert outcomes.count("slept") == 3
    assert outcomes.count("refused") == 3
