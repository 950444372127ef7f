"""`@serve.batch` on `def` functions: they run in a worker thread, so that they may block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from headrace.batching import batch

from .conditions import until


class Blocking:
    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.started = threading.Event()
        self.threads: list[threading.Thread] = []
        self.batches: list[list[int]] = []
        self.together = threading.Barrier(2, timeout=5)

    def work(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.threads.append(threading.current_thread())
        self.started.set()
        assert self.may_go.wait(5)
        return [item * 10 for item in items]

    @batch(max_batch_size=2)
    def one_by_one(self, items: list[int]) -> list[int]:
        return self.work(items)

    @batch(max_batch_size=1, max_concurrent_batches=2)
    def in_pairs(self, items: list[int]) -> list[int]:
        self.together.wait()
        return items


async def test_a_blocking_batch_does_not_block_the_loop() -> None:
    blocking = Blocking()
    calls = [asyncio.create_task(blocking.one_by_one(item)) for item in (1, 2)]
    await until(blocking.started.is_set)
    blocking.may_go.set()  # the loop gets here only because it turns while the batch blocks
    assert await asyncio.gather(*calls) == [10, 20]
    assert threading.main_thread() not in blocking.threads


async def test_one_batch_at_a_time_is_always_on_the_same_thread() -> None:
    blocking = Blocking()
    blocking.may_go.set()
    await asyncio.gather(*(blocking.one_by_one(item) for item in range(8)))
    assert len(blocking.batches) == 4
    assert len(set(blocking.threads)) == 1


async def test_concurrent_batches_run_on_threads_of_their_own() -> None:
    blocking = Blocking()
    assert await asyncio.gather(blocking.in_pairs(1), blocking.in_pairs(2)) == [1, 2]


async def test_a_thread_that_nobody_waits_for_still_counts_as_a_running_batch() -> None:
    blocking = Blocking()
    first = asyncio.create_task(blocking.one_by_one(1))
    await until(blocking.started.is_set)
    first.cancel()
    second = asyncio.create_task(blocking.one_by_one(2))
    await asyncio.sleep(0.03)
    assert blocking.batches == [[1]]
    blocking.may_go.set()
    assert await second == 20


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), SystemExit(3)], ids=repr)
async def test_whatever_a_thread_raises_reaches_the_callers(error: BaseException) -> None:
    @batch(max_batch_size=2)
    def fails(items: list[int]) -> list[int]:
        raise error

    first, second = await asyncio.gather(fails(1), fails(2), return_exceptions=True)
    assert isinstance(first, Exception) and isinstance(second, Exception)
    assert first is not second
    assert isinstance(first, ValueError) or repr(error) in str(first) or "StopIteration" in str(first)


async def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    async def inner(items: list[int]) -> list[int]:
        return items

    @batch
    def outer(items: list[int]) -> object:
        return inner(items)

    assert await outer(1) == 1


async def test_a_sync_generator_streams_from_its_thread() -> None:
    @batch(max_batch_size=2)
    def count(items: list[int]):
        for step in range(3):
            yield [item + step for item in items]

    async def collect(item: int) -> list[int]:
        return [element async for element in count(item)]

    assert await asyncio.gather(collect(0), collect(10)) == [[0, 1, 2], [10, 11, 12]]
