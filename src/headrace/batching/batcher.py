"""Runs the batches of one function, or of one instance's method, on one event loop."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from headrace.batching.calls import Call, StreamCall, shared_request
from headrace.batching.failures import own_copies
from headrace.batching.forming import BatchFormer, Limits
from headrace.batching.target import Kind, Target, key_of, shape_in
from headrace.exceptions import BatchError
from headrace.observe import tracing
from headrace.observe.batch_counts import batch_counts
from headrace.router.context import request_context

if TYPE_CHECKING:
    from headrace.observe.spans import Span

# uvloop's timers count in whole milliseconds from when the loop last looked at the clock, so they may fire early.
_TIMER_RESOLUTION_S = 0.001
_END = object()


class RunningBatch:
    """A batch that has started. `wanted`: how many of its callers still wait for something. `span`: what traces it."""

    __slots__ = ("calls", "span", "started_at", "task", "wanted")

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.wanted = len(calls)
        self.started_at = time.time()
        self.task: asyncio.Task[None] | None = None
        self.span: Span | None = None


class Batcher:
    """Collects requests and runs them in batches, never more than `max_concurrent_batches` at once.

    Everything but `limits_changed` is called on the loop's thread. A request costs a future and a place in a deque;
    a batch costs a task and at most one timer.
    """

    def __init__(self, target: Target, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.running: dict[RunningBatch, None] = {}
        self._target = target
        self._limits = limits
        self._call_type = StreamCall if target.kind.streams else Call
        self._former: BatchFormer[Call] = BatchFormer(limits, target.size_of, Call.fail)
        self._timer: asyncio.Handle | None = None
        self._timer_due = math.inf
        self._no_context = Context()  # for timers: they belong to no request
        self._threads: ThreadPoolExecutor | None = None
        self._name = getattr(target.function, "__name__", target.name)
        self._counts = batch_counts(self._name)
        self._counts.queues.add(self)

    @property
    def waiting(self) -> int:
        """How many requests wait; may be asked from any thread."""
        while True:
            try:
                return len(self._former)
            except RuntimeError:  # it changed meanwhile
                continue

    def submit(self, instance: object | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Line a request up, and start its batch if that is full.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        item, shape = self._target.item_and_shape(args, kwargs)
        request = request_context.get()
        key = key_of(request.multiplexed_model_id if request is not None else "", shape)
        now = time.monotonic()
        call = self._call_type(key, item, now, instance, request, copy_context(), self.loop.create_future())
        full = self._former.put(call)
        if len(self.running) < self._limits.max_concurrent_batches:
            if full:
                self._start_due(now)
            elif self._timer is None:
                self._arm(now)
        return call

    def abandon(self, call: Call) -> None:
        """The caller went away: the request leaves its batch, which runs on as long as another caller wants it."""
        batch = call.batch
        if batch is None:
            self._former.remove(call)
            return
        batch.wanted -= 1
        if batch.wanted == 0 and batch.task is not None and not self._target.kind.in_thread:
            batch.task.cancel()

    def limits_changed(self) -> None:
        """Look again at what waits. May be called from any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._start_due(time.monotonic())

    def _start_due(self, now: float) -> None:
        while len(self.running) < self._limits.max_concurrent_batches:
            due = self._former.take(now)
            if not due:
                self._arm(now)
                return
            # A caller that was cancelled in this turn of the loop has not come by to say so yet.
            calls = [call for call in due if not call.future.cancelled()]
            if not calls:
                continue
            batch = RunningBatch(calls)
            for call in calls:
                call.batch = batch
            self.running[batch] = None
            self._counts.began(len(calls), self._limits.max_batch_size, [now - call.arrived for call in calls])
            if tracing.tracer is not None:
                waits = [(call.context, now - call.arrived) for call in calls]
                batch.span = tracing.tracer.batch(self._name, self._limits.max_batch_size, waits)
            batch.task = self.loop.create_task(self._run(batch), context=calls[0].context)

    def _arm(self, now: float) -> None:
        """Have `_on_timer` called when the next batch is due. A timer that is set for earlier is left as it is."""
        due = self._former.next_due()
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due <= now:
            # Without a wait, requests that come in this turn of the loop still go together.
            self._timer = self.loop.call_soon(self._on_timer, context=self._no_context)
        elif due < math.inf:
            self._timer = self.loop.call_later(due - now, self._on_timer, context=self._no_context)
        self._timer_due = due

    def _on_timer(self) -> None:
        due, self._timer = self._timer_due, None
        now = time.monotonic()
        self._start_due(due if now < due <= now + _TIMER_RESOLUTION_S else now)

    async def _run(self, batch: RunningBatch) -> None:
        began = time.monotonic()
        request = shared_request(batch.calls)
        request_context.set(request)
        if batch.span is not None:
            batch.span.attach()  # for good: the task's context is its own
        failure: str | None = None
        again: Callable[[], object] = self._look
        try:
            if self._target.kind.streams:
                await self._stream(batch)
            else:
                await self._answer(batch)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                text = f"{self._target.name} raised CancelledError, though nobody cancelled the batch"
                failure = self._fail(batch, BatchError(text))
                return
            failure = asyncio.CancelledError.__name__
            # Nobody wants the batch any more, or the loop closes. Then those that wait are cancelled in this same turn.
            again = partial(self.loop.call_soon, self._look)
            for call in batch.calls:
                call.cancel()
            if request is not None:
                request.cancel_calls()
            raise
        except (SystemExit, KeyboardInterrupt) as error:
            failure = self._fail(batch, BatchError(f"{self._target.name} ended the process: {error!r}"))
            raise
        except BaseException as error:
            failure = self._fail(batch, error)
        finally:
            del self.running[batch]
            self._counts.ended(time.monotonic() - began)
            if batch.span is not None:
                batch.span.ended(failure)
            batch.calls = []  # they refer to the batch: no circle, so that items are freed now
            again()

    async def _answer(self, batch: RunningBatch) -> None:
        args, kwargs = self._arguments(batch)
        if self._target.kind is Kind.COROUTINE:
            results = await self._target.function(*args, **kwargs)
        else:
            results = await self._in_thread(self._target.function, *args, **kwargs)
            if inspect.isawaitable(results):
                results = await results
        for call, result in zip(batch.calls, self._target.check(results, len(batch.calls)), strict=True):
            if not call.future.done():
                call.future.set_result(result)

    async def _stream(self, batch: RunningBatch) -> None:
        args, kwargs = self._arguments(batch)
        if self._target.kind is Kind.ASYNC_GENERATOR:
            generator = self._target.function(*args, **kwargs)
        else:
            generator = self._iterated_in_thread(self._target.function(*args, **kwargs))
        calls = [call for call in batch.calls if isinstance(call, StreamCall)]
        async with aclosing(generator):
            async for elements in generator:
                if batch.wanted == 0:
                    # The generator has had a turn to end by itself since its last reader finished.
                    break
                for call, element in zip(calls, self._target.check(elements, len(calls)), strict=True):
                    if call.ended:
                        continue
                    if element is StopIteration or element is StopAsyncIteration:
                        batch.wanted -= 1
                        call.end()
                    else:
                        call.push(element)
        for call in calls:
            call.end()

    def _arguments(self, batch: RunningBatch) -> tuple[tuple[Any, ...], dict[str, Any]]:
        first = batch.calls[0]
        args, kwargs = self._target.lists([call.item for call in batch.calls], shape_in(first.key))
        return (first.instance, *args) if self._target.takes_self else args, kwargs

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        work = partial(copy_context().run, _outcome, partial(function, *args, **kwargs))
        value, error = await self.loop.run_in_executor(self._workers(), work)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise BatchError(f"{self._target.name} tried to end the process from a worker thread: {error!r}")
        if error is not None:
            raise error
        return value

    async def _iterated_in_thread(self, generator: Iterator[Any]) -> AsyncGenerator[Any, None]:
        try:
            while (elements := await self._in_thread(next, generator, _END)) is not _END:
                yield elements
        finally:
            # Not awaited: when the loop closes, the thread may still be at work.
            self._workers().submit(getattr(generator, "close", lambda: None))

    def _workers(self) -> ThreadPoolExecutor:
        # Threads of its own: a batch never waits for a thread of the loop's default pool, and with one batch at a
        # time a model sees one thread only.
        if self._threads is None:
            count = self._limits.max_concurrent_batches
            self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"batch {self._target.name}")
        return self._threads

    def _fail(self, batch: RunningBatch, error: BaseException) -> str:
        if batch.span is not None:
            batch.span.failed(error)
        for call, own in zip(batch.calls, own_copies(error, len(batch.calls)), strict=True):
            call.fail(own)
        return type(error).__name__


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Exceptions are handed over as values: a future cannot carry every one (StopIteration)."""
    try:
        return work(), None
    except BaseException as error:
        return None, error
