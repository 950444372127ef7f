"""Sync code on threads: in order, in its context, and no result is ever forgotten."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.replica.sync_worker import SyncWorker
from wire.conditions import until

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")


@pytest.fixture
async def worker() -> AsyncIterator[SyncWorker]:
    made = SyncWorker(asyncio.get_running_loop(), 1)
    yield made
    made.close()


async def test_jobs_run_in_the_order_in_which_they_came_and_end_in_it(worker: SyncWorker) -> None:
    ran: list[int] = []
    ended: list[int] = []
    for i in range(500):
        worker.submit(ran.append, (i,), {}, lambda value, error, i=i: ended.append(i))
    await until(lambda: len(ended) == 500)
    assert ran == ended == list(range(500))


async def test_a_job_runs_in_the_context_of_whoever_submitted_it(worker: SyncWorker) -> None:
    for value in ("a", "b"):
        setting.set(value)
        assert await worker.run(setting.get) == value
    assert await worker.run(threading.current_thread) is not threading.current_thread()

    def changes() -> None:
        setting.set("changed in the thread")

    await worker.run(changes)
    assert setting.get() == "b"


async def test_a_job_that_is_cancelled_before_it_starts_does_not_run(worker: SyncWorker) -> None:
    release = threading.Event()
    outcomes: dict[str, Any] = {}
    worker.submit(release.wait, (), {}, lambda value, error: outcomes.update(first=error))
    ran: list[str] = []
    second = worker.submit(ran.append, ("second",), {}, lambda value, error: outcomes.update(second=error))
    worker.submit(ran.append, ("third",), {}, lambda value, error: outcomes.update(third=error))
    second.cancelled = True
    release.set()
    await until(lambda: len(outcomes) == 3)
    assert ran == ["third"]
    assert outcomes["first"] is outcomes["third"] is None
    assert isinstance(outcomes["second"], asyncio.CancelledError)


async def test_whoever_stops_waiting_for_a_job_keeps_it_from_starting(worker: SyncWorker) -> None:
    release = threading.Event()
    ran: list[str] = []
    first = asyncio.ensure_future(worker.run(release.wait))
    second = asyncio.ensure_future(worker.run(ran.append, "second"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    release.set()
    await first
    await worker.run(lambda: None)
    assert not ran


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_whatever_a_job_raises_arrives_and_the_thread_lives_on(worker: SyncWorker, raised: BaseException) -> None:
    def fail() -> None:
        raise raised

    outcomes: list[BaseException | None] = []
    worker.submit(fail, (), {}, lambda value, error: outcomes.append(error))
    await until(lambda: outcomes)
    assert outcomes == [raised]
    assert await worker.run(lambda: "alive") == "alive"


async def test_stop_iteration_becomes_an_error_that_a_future_can_hold(worker: SyncWorker) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await worker.run(lambda: next(iter(())))


async def test_a_callback_that_raises_loses_no_other_result(
    worker: SyncWorker, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[int] = []

    def done(i: int) -> None:
        ended.append(i)
        if i % 3 == 0:
            raise ValueError("a bug in a callback")

    for i in range(30):
        worker.submit(lambda: None, (), {}, lambda value, error, i=i: done(i))
    await until(lambda: len(ended) == 30)
    assert "a bug in a callback" in caplog.text
    assert worker._unfinished == 0


async def test_only_as_many_threads_as_needed_and_allowed() -> None:
    worker = SyncWorker(asyncio.get_running_loop(), 3)
    for _ in range(5):
        await worker.run(lambda: None)
    assert len(worker._threads) == 1
    barrier = threading.Barrier(3)
    await asyncio.gather(*(worker.run(barrier.wait) for _ in range(3)))
    most, running, lock = 0, 0, threading.Lock()

    def counted() -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    await asyncio.gather(*(worker.run(counted) for _ in range(200)))
    assert len(worker._threads) == 3 and most <= 3
    worker.close()
    await until(lambda: not any(thread.is_alive() for thread in worker._threads))


@pytest.mark.parametrize("threads", [1, 4])
async def test_no_completion_is_lost_among_thousands(threads: int) -> None:
    """The loop is woken once for many results: a result that is ready while the loop collects must wake it again."""
    worker = SyncWorker(asyncio.get_running_loop(), threads)
    rng = random.Random(threads)
    for _ in range(100):
        count = rng.choice([1, 1, 2, 3, 50])
        pauses = [rng.choice([0, 0, 20, 200]) for _ in range(count)]

        def spin(turns: int) -> int:
            for _ in range(turns):
                pass
            return turns

        async with asyncio.timeout(10):
            assert await asyncio.gather(*(worker.run(spin, pause) for pause in pauses)) == pauses
    results: list[int] = []
    for i in range(5000):
        worker.submit(lambda i=i: i, (), {}, lambda value, error: results.append(value))
        if i % 97 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(results) == 5000)
    assert sorted(results) == list(range(5000))
    assert worker._unfinished == 0
    worker.close()
