"""`@serve.batch` on async functions and methods, on a real event loop."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import time
import traceback
from collections.abc import AsyncIterator

import cloudpickle
import numpy as np
import pytest

from headrace.batching import batch
from headrace.exceptions import BatchError, HeadraceError
from headrace.retry_marker import retryable

from .conditions import until

NEVER = 30.0  # a timeout that no test waits for


class Recorder:
    """A batched method that keeps its batches, and stops in each until `gate` opens."""

    def __init__(self, gate: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        if not gate:
            self.gate.set()
        self.running = 0
        self.most_running = 0

    async def work(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return [item * 10 for item in items]

    @batch(max_batch_size=3, batch_wait_timeout_s=NEVER)
    async def three(self, items: list[int]) -> list[int]:
        return await self.work(items)

    @batch(max_batch_size=3, batch_wait_timeout_s=NEVER, max_concurrent_batches=2)
    async def three_twice(self, items: list[int]) -> list[int]:
        return await self.work(items)

    @batch(max_batch_size=10, batch_wait_timeout_s=0.05)
    async def soon(self, items: list[int]) -> list[int]:
        return await self.work(items)

    @batch(max_batch_size=10, batch_wait_timeout_s=0)
    async def at_once(self, items: list[int]) -> list[int]:
        return await self.work(items)


@contextlib.asynccontextmanager
async def quickly(seconds: float = 5.0) -> AsyncIterator[None]:
    """For what must not wait for a timeout of `NEVER`."""
    async with asyncio.timeout(seconds):
        yield


async def test_each_caller_gets_the_result_at_its_own_place() -> None:
    recorder = Recorder()
    async with quickly():
        assert await asyncio.gather(*(recorder.three(item) for item in range(6))) == [0, 10, 20, 30, 40, 50]
    assert recorder.batches == [[0, 1, 2], [3, 4, 5]]


async def test_a_batch_that_is_not_full_goes_after_the_timeout() -> None:
    recorder = Recorder()
    started = time.monotonic()
    assert await asyncio.gather(recorder.soon(1), recorder.soon(2)) == [10, 20]
    assert recorder.batches == [[1, 2]]
    assert 0.045 <= time.monotonic() - started < 1


async def test_without_a_timeout_requests_of_one_loop_turn_still_go_together() -> None:
    recorder = Recorder()
    await asyncio.gather(*(recorder.at_once(item) for item in range(4)))
    assert recorder.batches == [[0, 1, 2, 3]]


async def test_requests_that_aged_while_a_batch_ran_go_as_soon_as_it_ends() -> None:
    recorder = Recorder(gate=True)
    first = asyncio.create_task(recorder.soon(1))
    await until(lambda: recorder.batches)
    second = asyncio.create_task(recorder.soon(2))
    await asyncio.sleep(0.06)  # ages the second beyond its timeout
    assert recorder.batches == [[1]]
    recorder.gate.set()
    await first
    started = time.monotonic()
    await second
    assert time.monotonic() - started < 0.04
    assert recorder.batches == [[1], [2]]


async def test_a_full_batch_that_waits_goes_at_once_when_the_running_one_ends() -> None:
    recorder = Recorder(gate=True)
    calls = [asyncio.create_task(recorder.three(item)) for item in range(6)]
    await until(lambda: recorder.batches)
    recorder.gate.set()
    async with quickly():
        await asyncio.gather(*calls)
    assert recorder.batches == [[0, 1, 2], [3, 4, 5]]


async def test_no_more_batches_run_at_once_than_allowed() -> None:
    recorder = Recorder(gate=True)
    calls = [asyncio.create_task(recorder.three_twice(item)) for item in range(9)]
    await until(lambda: len(recorder.batches) == 2)
    await asyncio.sleep(0.01)
    assert len(recorder.batches) == 2
    recorder.gate.set()
    async with quickly():
        await asyncio.gather(*calls)
    assert recorder.most_running == 2
    assert len(recorder.batches) == 3


async def test_a_batch_that_raises_fails_its_own_requests_only_each_with_its_own_exception() -> None:
    class Fragile:
        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
        async def check(self, items: list[int]) -> list[int]:
            if 0 in items:
                raise ValueError("zero", items[0])
            return items

    fragile = Fragile()
    async with quickly():
        failed, also_failed, fine, also_fine = await asyncio.gather(
            *(fragile.check(item) for item in (0, 1, 2, 3)), return_exceptions=True
        )
    assert (fine, also_fine) == (2, 3)
    assert isinstance(failed, ValueError) and isinstance(also_failed, ValueError)
    assert failed is not also_failed
    assert failed.args == also_failed.args == ("zero", 0)
    for error in (failed, also_failed):
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)].count("check") == 1


async def test_an_exception_with_an_unusual_constructor_is_copied_faithfully() -> None:
    class Refused(Exception):
        def __init__(self, code: int, *, reason: str) -> None:
            super().__init__(f"{code}: {reason}")
            self.code = code

    class Reworded(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(f"reworded {text}")

    for error in (Refused(7, reason="no"), Reworded("text"), FileNotFoundError(2, "gone", "model.bin")):

        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
        async def fail(items: list[int], error: Exception = error) -> list[int]:
            raise error from KeyError("cause")

        first, second = await asyncio.gather(fail(1), fail(2), return_exceptions=True)
        assert type(first) is type(second) is type(error)
        assert first is not second
        assert str(first) == str(second)
        assert vars(first) == vars(second)
        assert isinstance(second, Exception) and isinstance(second.__cause__, KeyError)


@pytest.mark.parametrize(
    ("given", "described"),
    [
        ([1], "returned a list of length 1"),
        ([1, 2, 3], "returned a list of length 3"),
        (None, "returned None"),
        ("ab", "returned a str of length 2"),
        ({1: 1, 2: 2}, "returned a dict of length 2"),
        (7, "returned a int"),
    ],
)
async def test_a_wrong_result_is_an_error_that_names_function_expected_and_actual_length(
    given: object, described: str
) -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
    async def wrong(items: list[int]) -> object:
        return given

    async with quickly():
        results = await asyncio.gather(wrong(1), wrong(2), return_exceptions=True)
    assert results[0] is not results[1]
    for error in results:
        assert isinstance(error, BatchError) and isinstance(error, HeadraceError)
        assert "wrong" in str(error)
        assert described in str(error)
        assert "length 2" in str(error)


async def test_arrays_and_tuples_pass_as_lists_of_results() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
    async def rows(items: list[int]) -> np.ndarray:
        return np.array([[item, item] for item in items])

    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
    async def pair(items: list[int]) -> tuple[int, ...]:
        return tuple(items)

    first, second = await asyncio.gather(rows(1), rows(2))
    assert first.tolist() == [1, 1] and second.tolist() == [2, 2]
    assert await asyncio.gather(pair(1), pair(2)) == [1, 2]


async def test_a_request_cancelled_before_its_batch_starts_leaves_it_and_does_not_count() -> None:
    recorder = Recorder()
    calls = [asyncio.create_task(recorder.three(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    calls += [asyncio.create_task(recorder.three(3))]
    await asyncio.sleep(0.01)
    assert recorder.batches == []  # two of three
    async with quickly():
        assert await recorder.three(4) == 40
    assert recorder.batches == [[2, 3, 4]]
    assert calls[0].cancelled()


async def test_a_request_cancelled_in_a_running_batch_does_not_disturb_the_others() -> None:
    recorder = Recorder(gate=True)
    calls = [asyncio.create_task(recorder.three(item)) for item in (1, 2, 3)]
    await until(lambda: recorder.batches)
    calls[1].cancel()
    await until(calls[1].done)
    recorder.gate.set()
    async with quickly():
        assert await asyncio.gather(calls[0], calls[2]) == [10, 30]


async def test_a_running_batch_that_nobody_waits_for_any_more_is_cancelled_and_makes_room() -> None:
    recorder = Recorder(gate=True)
    calls = [asyncio.create_task(recorder.three(item)) for item in range(6)]
    await until(lambda: recorder.batches)
    for call in calls[:3]:
        call.cancel()
    await until(lambda: len(recorder.batches) == 2)
    recorder.gate.set()
    async with quickly():
        assert await asyncio.gather(*calls[3:]) == [30, 40, 50]
    assert recorder.most_running == 1


async def test_a_cancelled_error_from_the_function_itself_is_an_error_and_no_cancellation() -> None:
    @batch(max_batch_size=1)
    async def gives_up(items: list[int]) -> list[int]:
        raise asyncio.CancelledError

    with pytest.raises(BatchError, match="gives_up raised CancelledError"):
        await gives_up(1)


async def test_batch_size_fn_closes_a_batch_before_it_gets_too_large() -> None:
    batches: list[list[str]] = []

    @batch(max_batch_size=10, batch_wait_timeout_s=0.02, batch_size_fn=lambda texts: sum(map(len, texts)))
    async def lengths(texts: list[str]) -> list[int]:
        batches.append(texts)
        return [len(text) for text in texts]

    assert await asyncio.gather(*(lengths("x" * size) for size in (4, 4, 4, 10, 1))) == [4, 4, 4, 10, 1]
    assert [[len(text) for text in texts] for texts in batches] == [[4, 4], [4], [10], [1]]


async def test_an_item_larger_than_a_whole_batch_fails_at_once_and_alone() -> None:
    @batch(max_batch_size=10, batch_wait_timeout_s=0.01, batch_size_fn=lambda texts: sum(map(len, texts)))
    async def lengths(texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    fine, too_large = await asyncio.gather(lengths("x"), lengths("x" * 11), return_exceptions=True)
    assert fine == 1
    assert isinstance(too_large, BatchError)
    assert "size 11" in str(too_large) and "max_batch_size=10" in str(too_large)


async def test_limits_change_while_requests_wait_and_per_instance() -> None:
    one, other = Recorder(), Recorder()
    calls = [asyncio.create_task(one.three(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    one.three.set_max_batch_size(2)
    async with quickly():
        assert await asyncio.gather(*calls) == [10, 20]
    assert one.three.get_max_batch_size() == 2
    assert other.three.get_max_batch_size() == 3
    assert Recorder.three.get_max_batch_size() == 3

    waiting = asyncio.create_task(other.three(1))
    await asyncio.sleep(0)
    other.three.set_batch_wait_timeout_s(0)
    async with quickly():
        await waiting
    assert other.three.get_batch_wait_timeout_s() == 0
    assert one.three.get_batch_wait_timeout_s() == NEVER


async def test_limits_set_on_the_class_hold_for_all_instances() -> None:
    class Local(Recorder):
        @batch
        async def local(self, items: list[int]) -> list[int]:
            return items

    before = Local()
    assert before.local.get_max_batch_size() == 10
    Local.local.set_max_batch_size(4)
    assert before.local.get_max_batch_size() == Local().local.get_max_batch_size() == 4


async def test_a_thread_may_change_the_limits() -> None:
    recorder = Recorder()
    waiting = asyncio.create_task(recorder.three(1))
    await asyncio.sleep(0)
    await asyncio.to_thread(recorder.three.set_batch_wait_timeout_s, 0.0)
    async with quickly():
        assert await waiting == 10


async def test_what_runs_can_be_seen() -> None:
    recorder = Recorder(gate=True)
    assert not recorder.three.is_running()
    before = time.time()
    calls = [asyncio.create_task(recorder.three(item)) for item in range(3)]
    await until(recorder.three.is_running)
    times = recorder.three.get_curr_iteration_start_times()
    assert times.num_requests == 1
    assert before <= times.min_start_time == times.mean_start_time == times.max_start_time <= time.time()
    recorder.gate.set()
    await asyncio.gather(*calls)
    assert recorder.three.get_curr_iteration_start_times().min_start_time is None


async def test_two_instances_do_not_share_batches() -> None:
    one, other = Recorder(), copy.copy(Recorder())
    await asyncio.gather(one.soon(1), other.soon(2))
    assert one.batches == [[1]]
    assert other.batches == [[2]]


async def test_functions_are_batched_with_and_without_parentheses() -> None:
    seen: list[list[int]] = []

    @batch
    async def bare(items: list[int]) -> list[int]:
        seen.append(items)
        return items

    @batch(batch_wait_timeout_s=0.01)
    async def given(items: list[int]) -> list[int]:
        return items

    assert await asyncio.gather(bare(1), bare(2), given(3)) == [1, 2, 3]
    assert seen == [[1, 2]]
    assert bare.get_batch_wait_timeout_s() == 0.01
    bare.set_max_batch_size(3)
    assert bare.get_max_batch_size() == 3


async def test_several_parameters_arrive_as_one_list_each_however_they_are_passed() -> None:
    class Scorer:
        @batch(max_batch_size=4, batch_wait_timeout_s=0.02)
        async def score(self, texts: list[str], weights: list[int] | None = None) -> list[tuple]:
            return [(text, weights) for text in texts]

    scorer = Scorer()
    results = await asyncio.gather(
        scorer.score("a", 1), scorer.score("b", weights=2), scorer.score(weights=3, texts="c"), scorer.score("d")
    )
    assert results == [("a", [1, 2, 3]), ("b", [1, 2, 3]), ("c", [1, 2, 3]), ("d", None)]


async def test_arguments_that_do_not_fit_are_a_type_error_for_that_caller() -> None:
    recorder = Recorder()
    with pytest.raises(TypeError, match=r"Recorder\.soon: too many positional arguments"):
        await recorder.soon(1, 2)
    with pytest.raises(TypeError, match="missing a required argument: 'items'"):
        await recorder.soon(text=1)
    assert await recorder.soon(items=1) == 10


async def test_static_and_class_methods_and_odd_names_for_self_work() -> None:
    class Kinds:
        @staticmethod
        @batch
        async def static(items: list[int]) -> list[int]:
            return items

        @classmethod
        @batch
        async def of_class(cls, items: list[int]) -> list[tuple]:
            return [(cls, item) for item in items]

        @batch
        async def odd(this, items: list[int]) -> list[tuple]:
            return [(this, item) for item in items]

    kinds = Kinds()
    assert await kinds.static(1) == 1
    assert await Kinds.of_class(1) == (Kinds, 1)
    assert await kinds.odd(1) == (kinds, 1)
    assert await Kinds.odd(kinds, 1) == (kinds, 1)


async def test_an_override_can_call_the_batched_method_of_its_base_class() -> None:
    class Derived(Recorder):
        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER)
        async def soon(self, items: list[int]) -> list[int]:
            inner = super().soon
            return [item + 1 for item in await asyncio.gather(*(inner(item) for item in items))]

    derived = Derived()
    async with quickly():
        assert await asyncio.gather(derived.soon(1), derived.soon(2)) == [11, 21]
    assert derived.batches == [[1, 2]]


def test_one_instance_works_on_one_loop_after_the_other_and_on_two_at_once() -> None:
    async def make() -> Recorder:
        return Recorder()

    recorder = asyncio.run(make())
    assert asyncio.run(recorder.soon(1)) == 10
    assert asyncio.run(recorder.soon(2)) == 20

    async def both() -> list[int]:
        return await asyncio.gather(recorder.soon(3), asyncio.to_thread(asyncio.run, recorder.soon(4)))

    assert asyncio.run(both()) == [30, 40]


def test_inspect_takes_a_batched_method_for_an_async_method_with_the_users_signature() -> None:
    recorder = Recorder.__new__(Recorder)
    for callable_ in (recorder.soon, Recorder.soon):
        assert inspect.iscoroutinefunction(callable_)
        assert inspect.iscoroutinefunction(callable_.__call__)
        assert callable_.__headrace_batched__ is True
    assert list(inspect.signature(recorder.soon).parameters) == ["items"]
    assert list(inspect.signature(Recorder.soon).parameters) == ["self", "items"]
    assert recorder.soon.__name__ == "soon"
    assert recorder.soon.__wrapped__.__func__ is Recorder.soon.__wrapped__
    assert recorder.soon == recorder.soon


def test_a_batched_method_keeps_the_users_docstring_and_what_other_decorators_put_on_it() -> None:
    class Documented:
        @retryable
        @batch
        async def outside(self, items: list[int]) -> list[int]:
            """What it does."""
            return items

        @batch
        @retryable
        async def inside(self, items: list[int]) -> list[int]:
            """What it does."""
            return items

    for method in (Documented().outside, Documented().inside, Documented.outside):
        assert inspect.getdoc(method) == "What it does."
        assert method.__headrace_retryable__ is True


async def test_classes_and_functions_with_batches_survive_pickling_with_their_settings() -> None:
    class Shipped:
        @batch(max_batch_size=7)
        async def method(self, items: list[int]) -> list[int]:
            return items

    @batch(max_batch_size=8)
    async def function(items: list[int]) -> list[int]:
        return items

    await Shipped().method(1)  # with a live batcher, which stays behind
    await function(1)
    there, function_there = cloudpickle.loads(cloudpickle.dumps((Shipped, function)))
    assert there().method.get_max_batch_size() == 7
    assert function_there.get_max_batch_size() == 8
    assert await there().method(2) == 2
    assert await function_there(2) == 2


async def test_an_instance_is_freed_when_nobody_holds_it() -> None:
    class Model:
        freed = 0

        def __del__(self) -> None:
            Model.freed += 1

        @batch(batch_wait_timeout_s=0)
        async def work(self, items: list[int]) -> list[int]:
            return items

    model = Model()
    await model.work(1)
    del model
    await until(lambda: Model.freed == 1)
