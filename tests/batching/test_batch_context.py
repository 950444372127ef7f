"""What a batch knows of the requests in it: the model they ask for, their deadline, the caller's context variables."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar

from headrace.batching import batch
from headrace.router.context import RequestContext, current, request_context

from .conditions import until


async def as_request(call: object, request: RequestContext) -> object:
    async def body() -> object:
        request_context.set(request)
        return await call()

    return await asyncio.create_task(body())


class Model:
    @batch(max_batch_size=8, batch_wait_timeout_s=0.02)
    async def see(self, items: list[int]) -> list[tuple[list[int], RequestContext | None]]:
        return [(items, current())] * len(items)


async def test_requests_for_different_models_never_share_a_batch() -> None:
    model = Model()
    results = await asyncio.gather(
        *(
            as_request(lambda item=item: model.see(item), RequestContext(f"r{item}", multiplexed_model_id=name))
            for item, name in enumerate(["a", "b", "a", "b", "c"])
        )
    )
    assert [items for items, _ in results] == [[0, 2], [1, 3], [0, 2], [1, 3], [4]]
    assert [seen.multiplexed_model_id for _, seen in results] == ["a", "b", "a", "b", "c"]


async def test_a_batch_has_a_context_of_its_own_with_the_latest_deadline() -> None:
    model = Model()
    now = time.monotonic()
    requests = [RequestContext(f"r{index}", app="app", deadline=now + index, session_id="s") for index in range(3)]
    results = await asyncio.gather(
        *(as_request(lambda index=index: model.see(index), request) for index, request in enumerate(requests))
    )
    seen = results[0][1]
    assert seen not in requests
    assert (seen.request_id, seen.app, seen.deadline, seen.session_id) == ("r0", "app", now + 2, "s")


async def test_one_request_without_a_deadline_frees_its_batch_from_the_others() -> None:
    model = Model()
    requests = [RequestContext("r0", deadline=time.monotonic() + 1, session_id="s"), RequestContext("r1")]
    results = await asyncio.gather(
        *(as_request(lambda index=index: model.see(index), request) for index, request in enumerate(requests))
    )
    assert results[0][1].deadline is None
    assert results[0][1].session_id == ""


async def test_outside_of_requests_there_is_no_context() -> None:
    assert await Model().see(1) == ([1], None)


async def test_context_variables_are_those_of_the_first_request_also_in_threads() -> None:
    trace: ContextVar[str] = ContextVar("trace", default="none")

    @batch(max_batch_size=2)
    def traced(items: list[int]) -> list[str]:
        return [trace.get()] * len(items)

    async def call(name: str) -> str:
        trace.set(name)
        return await traced(1)

    assert await asyncio.gather(call("first"), call("second")) == ["first", "first"]
    assert trace.get() == "none"


async def test_cancelling_one_request_leaves_the_calls_of_its_batch_alone_and_cancelling_all_ends_them() -> None:
    class Downstream:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    downstream, gate, started = Downstream(), asyncio.Event(), asyncio.Event()

    @batch(max_batch_size=2)
    async def calls(items: list[int]) -> list[int]:
        current().calls = {downstream}
        started.set()
        await gate.wait()
        return items

    requests = [RequestContext("r0"), RequestContext("r1")]
    tasks = [asyncio.create_task(as_request(lambda: calls(1), request)) for request in requests]
    await started.wait()
    tasks[0].cancel()
    requests[0].cancel_calls()
    await asyncio.sleep(0.01)
    assert not downstream.cancelled
    tasks[1].cancel()
    await until(lambda: downstream.cancelled)
