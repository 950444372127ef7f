"""Admission and the running of calls, from the callers' side of real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.router.context import current
from headrace.wire import codec, frames
from wire.conditions import turns, until

from .conftest import Serve
from .served import Caller, Replica


class Model:
    """Its calls begin, and end when the test says so."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.started: list[Any] = []
        self.cancelled: list[Any] = []
        self.gate = asyncio.Event()
        self.thread_gate = threading.Event()
        self.begun = 0
        self.closed = 0

    async def __call__(self, x: Any = None) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.append(x)
        try:
            await self.gate.wait()
            return x
        except asyncio.CancelledError:
            self.cancelled.append(x)
            raise
        finally:
            self.running -= 1

    async def echo(self, x: Any) -> Any:
        return x

    def sync(self, x: Any = None) -> Any:
        self.started.append(x)
        self.thread_gate.wait()
        return x

    async def raises(self, error: BaseException) -> None:
        raise error

    def raises_in_a_thread(self, error: BaseException) -> None:
        raise error

    async def numbers(self, count: int) -> AsyncIterator[int]:
        self.begun += 1
        try:
            for i in range(count):
                yield i
                if i == 5:
                    await self.gate.wait()
        finally:
            self.closed += 1

    def sync_numbers(self, count: int) -> Iterator[int]:
        self.begun += 1
        try:
            for i in range(count):
                yield i
                if i == 5:
                    self.thread_gate.wait()
        finally:
            self.closed += 1

    async def deadline(self) -> float | None:
        context = current()
        return context.remaining_s() if context is not None else None


async def test_values_of_all_methods_arrive(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    replica.instance.gate.set()
    replica.instance.thread_gate.set()
    assert await caller.call("__call__", 1).value() == 1
    assert await caller.call("echo", {"a": [1]}).value() == {"a": [1]}
    assert await caller.call("sync", 2).value() == 2
    for method in ("numbers", "sync_numbers"):
        stream = caller.stream(method, 200)
        assert await stream.ended == "end"
    await replica.idle()


# Admission.


async def test_never_more_than_the_limit_run_whatever_comes(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=3)
    callers = [await replica.caller() for _ in range(4)]
    calls = [caller.call("__call__", i) for i in range(10) for caller in callers]
    await until(lambda: sum(call.ended.done() for call in calls) == 37)
    assert replica.instance.running == replica.service.ongoing == 3
    replica.instance.gate.set()
    outcomes = [await call.outcome() for call in calls]
    assert [how for how, _ in outcomes].count("value") == 3
    assert [how for how, _ in outcomes].count("reject") == 37
    assert replica.instance.most == 3


actions = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "sync", "stream", "finish", "cancel", "fail", "turn"]), st.integers(0, 9)
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions, st.integers(1, 3))
def test_the_count_is_right_after_whatever_callers_do(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], limit: int
) -> None:
    import tempfile
    from pathlib import Path

    async def scenario(folder: Path) -> None:
        replica = Replica(folder, Model, (), {"max_ongoing_requests": limit})
        await replica.start()
        caller = await replica.caller()
        model = replica.instance
        model.thread_gate.set()
        calls = []
        for action, which in steps:
            if action == "call":
                calls.append(caller.call("__call__", which))
            elif action == "sync":
                calls.append(caller.call("sync", which))
            elif action == "stream":
                calls.append(caller.stream("sync_numbers" if which % 2 else "numbers", which))
            elif action == "fail":
                calls.append(caller.call("raises", ValueError(which)))
            elif action == "cancel" and calls:
                calls[which % len(calls)].abandon()
            elif action == "finish":
                model.gate.set()
                await turns()
                model.gate.clear()
            else:
                await turns(which)
            assert 0 <= replica.service.ongoing <= limit
        model.gate.set()
        for call in calls:
            if call.connection is not None:
                await call.ended
        await replica.idle()
        assert model.running == 0 and model.most <= limit
        assert not caller.connection.calls and not replica.listener.connections.copy().pop().calls
        await replica.stop()

    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        asyncio.run(scenario(Path(folder)))


async def test_a_rejected_caller_hears_when_there_is_room(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    first, second = await replica.caller(), await replica.caller()
    running = first.call("__call__", 1)
    await until(lambda: replica.instance.running == 1)
    rejected = second.call("__call__", 2)
    assert await rejected.ended == "reject"
    assert second.capacity == 0
    replica.instance.gate.set()
    await running.value()
    await until(lambda: second.capacity == 1)
    assert await second.call("__call__", 3).value() == 3


async def test_a_large_argument_is_not_sent_to_its_end_where_there_is_no_room(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    first, second = await replica.caller(), await replica.caller()
    running = first.call("__call__", 1)
    await until(lambda: replica.instance.running == 1)
    rejected = second.call("__call__", bytes(50_000_000))
    assert await rejected.ended == "reject"
    assert not second.connection._bulk and rejected.events[-1][1][:4] == bytes([1, 0, 0, 0])
    replica.instance.gate.set()
    await running.value()
    await until(lambda: second.capacity == 1)
    assert len(await second.call("__call__", bytes(50_000_000)).value()) == 50_000_000


async def test_room_is_announced_to_the_next_where_the_first_has_gone_or_does_not_use_it(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    first = await replica.caller()
    running = first.call("__call__", 0)
    await until(lambda: replica.instance.running == 1)
    callers = [await replica.caller() for _ in range(4)]
    for caller in callers:
        assert await caller.call("__call__").ended == "reject"
    gone, idle, *others = callers
    gone.connection.abort()
    await until(lambda: len(replica.listener.connections) == 4)
    replica.instance.gate.set()
    await running.value()
    await until(lambda: all(caller.capacity for caller in others))
    assert idle.capacity == 1


async def test_a_higher_limit_is_announced(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    caller = await replica.caller()
    first = caller.call("__call__", 1)
    second = caller.call("__call__", 2)
    assert await second.ended == "reject"
    replica.service.set_limits(2, open=True)
    await until(lambda: caller.capacity == 1)
    third = caller.call("__call__", 3)
    await until(lambda: replica.instance.started == [1, 3])
    replica.instance.gate.set()
    assert [await first.value(), await third.value()] == [1, 3]


async def test_nothing_polls_while_a_full_replica_has_rejected_callers(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    callers = [await replica.caller() for _ in range(3)]
    callers[0].call("__call__")
    await until(lambda: replica.instance.running == 1)
    for caller in callers:
        assert await caller.call("__call__").ended == "reject"
    await asyncio.sleep(0.03)
    assert replica.service._announcing is None
    assert [caller.capacity for caller in callers] == [0, 0, 0]


# Deadlines and cancellation.


async def test_a_call_whose_time_is_over_is_not_started(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    for timeout_s in (0.0, -1.0):
        kind, message = await caller.call("__call__", timeout_s=timeout_s).error()
        assert kind == "timeout" and "expired before it was started" in message
    assert not replica.instance.started and replica.service.ongoing == 0
    assert 0 < await caller.call("deadline", timeout_s=100.0).value() <= 100
    assert await caller.call("deadline").value() is None


async def test_a_cancelled_call_is_cancelled_where_it_runs(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    call = caller.call("__call__", 1)
    await until(lambda: replica.instance.running == 1)
    call.abandon()
    await until(lambda: replica.instance.cancelled == [1])
    await replica.idle()


async def test_a_call_that_is_cancelled_in_the_turn_in_which_it_came_gives_its_place_back(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    caller = await replica.caller()
    for method in ("__call__", "echo", "sync"):
        for _ in range(5):
            call = caller.call(method, 1)
            call.abandon()
    for method in ("numbers", "sync_numbers"):
        caller.stream(method, 3).abandon()
    replica.instance.gate.set()
    replica.instance.thread_gate.set()
    await caller.has_asked()
    await replica.idle()
    assert await caller.call("echo", 1).value() == 1


async def test_a_sync_call_that_waits_for_its_thread_is_not_run_once_cancelled(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    first, second = caller.call("sync", 1), caller.call("sync", 2)
    await until(lambda: replica.instance.started == [1] and replica.service.ongoing == 2)
    second.abandon()
    await caller.has_asked()
    replica.instance.thread_gate.set()
    assert await first.value() == 1
    await replica.idle()
    assert replica.instance.started == [1]


@pytest.mark.parametrize("method", ["numbers", "sync_numbers"])
async def test_a_stream_that_is_left_early_runs_its_finally(serve: Serve, method: str) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    stream = caller.stream(method, 1_000_000)
    await until(lambda: replica.instance.begun == 1)
    stream.abandon()
    replica.instance.thread_gate.set()
    await until(lambda: replica.instance.closed == 1)
    await replica.idle()


async def test_a_lost_caller_cancels_its_calls(serve: Serve) -> None:
    replica = await serve(Model)
    caller, other = await replica.caller(), await replica.caller()
    for i in range(3):
        caller.call("__call__", i)
    kept = other.call("__call__", 9)
    await until(lambda: replica.instance.running == 4)
    caller.connection.abort()
    await until(lambda: sorted(replica.instance.cancelled) == [0, 1, 2])
    replica.instance.gate.set()
    assert await kept.value() == 9
    await replica.idle()


# What user code raises.


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("unpicklable")
        self.lock = threading.Lock()


@pytest.mark.parametrize("method", ["raises", "raises_in_a_thread"])
async def test_exceptions_of_all_kinds_arrive_and_give_the_place_back(serve: Serve, method: str) -> None:
    replica = await serve(Model, max_ongoing_requests=1)
    caller = await replica.caller()

    async def outcome(error: BaseException) -> tuple[str, Any]:
        call = caller.call(method, error)
        kind, _ = await call.error()
        payload = call.payloads[0] if call.payloads else b""
        return kind, codec.decode(frames.PICKLED, payload) if payload else None

    kind, error = await outcome(ValueError("x"))
    assert kind == "ValueError" and error.args == ("x",)
    for ends_the_process in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
        kind, error = await outcome(ends_the_process)
        assert isinstance(error, Exception) and type(ends_the_process).__name__ in str(error)
    # asyncio's futures cannot hold it, so no caller could be told.
    kind, error = await outcome(StopIteration(1))
    assert type(error) is RuntimeError and "StopIteration" in str(error)
    await replica.idle()
    assert await caller.call("echo", 1).value() == 1


class RaisesOddly:
    async def unprintable(self) -> None:
        raise Unprintable

    def unpicklable(self) -> None:
        raise Unpicklable

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    async def returns_a_lock(self) -> Any:
        return threading.Lock()

    async def generates(self) -> AsyncIterator[int]:
        yield 1

    def returns_a_coroutine(self) -> Any:
        async def later() -> str:
            return "later"

        return later()

    def returns_a_generator(self) -> Any:
        return (i for i in range(3))


async def test_odd_results_and_exceptions_are_answered(serve: Serve) -> None:
    replica = await serve(RaisesOddly, max_ongoing_requests=1)
    caller = await replica.caller()
    assert (await caller.call("unprintable").error())[0] == "Unprintable"
    assert (await caller.call("unpicklable").error()) == ("Unpicklable", "unpicklable")
    assert (await caller.call("cancels_itself").error())[0] == "cancelled"
    assert (await caller.call("returns_a_lock").error())[0] == "SerializationError"
    assert "call it through handle.options(stream=True)" in (await caller.call("generates").error())[1]
    assert "call it through handle.options(stream=True)" in (await caller.call("returns_a_generator").error())[1]
    assert await caller.call("returns_a_coroutine").value() == "later"
    assert "stream=True needs a generator" in (await caller.stream("returns_a_coroutine").error())[1]
    assert (await caller.call("nowhere").error())[0] == "AttributeError"
    assert (await caller.call("generates", 1, 2, 3).error())[0] == "TypeError"
    await replica.idle()


async def test_arguments_that_cannot_be_unpickled_fail_their_call_alone(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    from headrace.router.headers import CallHeader, encode

    from .served import Answered

    broken = Answered()
    caller.connection.call(broken, frames.PICKLED, encode(CallHeader("echo", "r")), b"\x80\x05garbage")
    assert (await broken.error())[0] in ("UnpicklingError", "KeyError", "ValueError")
    headless = Answered()
    caller.connection.call(headless, frames.PICKLED, b"\xc1", b"")
    await headless.error()
    http = Answered()
    caller.connection.call(http, frames.HTTP, b"\xc1", b"")
    await http.error()
    await replica.idle()
    assert await caller.call("echo", 1).value() == 1


async def test_many_callers_and_methods_at_once(serve: Serve) -> None:
    replica = await serve(Model, max_ongoing_requests=1000, max_concurrent_sync=2)
    replica.instance.gate.set()
    replica.instance.thread_gate.set()
    callers: list[Caller] = [await replica.caller() for _ in range(4)]
    calls = [(n, caller.call(("__call__", "echo", "sync")[n % 3], n)) for n in range(100) for caller in callers]
    for n, call in calls:
        assert await call.value() == n
    await replica.idle()
