"""The threads that sync user code runs on, so that it never blocks the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger("headrace.replica")

Done = Callable[[Any, BaseException | None], None]


class Job:
    """A function that waits for a thread, or runs on one."""

    __slots__ = ("args", "cancelled", "context", "done", "function", "kwargs")

    def __init__(
        self,
        context: contextvars.Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        done: Done,
    ) -> None:
        self.context = context
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.done = done
        self.cancelled = False


class SyncWorker:
    """Runs sync functions on `threads` threads, in the order in which they came.

    Cheaper than a `ThreadPoolExecutor`: no lock and no future per job, and results that are ready together wake the
    event loop once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int, name: str = "headrace-sync") -> None:
        self._loop = loop
        self._limit = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._finished: deque[tuple[Job, Any, BaseException | None]] = deque()
        self._waking = False
        self._unfinished = 0

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], done: Done) -> Job:
        """Run a function in a copy of the current context; `done(value, error)` is called on the event loop.

        A job whose `cancelled` is set before a thread takes it does not run; its `done` gets CancelledError.
        """
        job = Job(contextvars.copy_context(), function, args, kwargs, done)
        self._unfinished += 1
        if self._unfinished > len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)
        return job

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function on a thread and await its result."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(value: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            elif isinstance(error, StopIteration):
                future.set_exception(RuntimeError("the function raised StopIteration"))
            else:
                future.set_exception(error)

        job = self.submit(function, args, kwargs, done)
        try:
            return await future
        finally:
            job.cancelled = True

    def _work(self) -> None:
        jobs, finished = self._jobs, self._finished
        while (job := jobs.get()) is not None:
            value: Any = None
            error: BaseException | None = None
            if job.cancelled:
                error = asyncio.CancelledError()
            else:
                try:
                    value = job.context.run(job.function, *job.args, **job.kwargs)
                except BaseException as raised:
                    error = raised
            finished.append((job, value, error))
            if not self._waking:
                self._waking = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)
                except RuntimeError:  # the loop is closed: the process is ending
                    return
            del job, value, error

    def _collect(self) -> None:
        # First the flag, then the queue: what is added meanwhile is either seen here or wakes the loop again.
        self._waking = False
        finished = self._finished
        while finished:
            job, value, error = finished.popleft()
            self._unfinished -= 1
            try:
                job.done(value, error)
            except Exception:
                logger.exception("a result could not be delivered")

    def close(self) -> None:
        """Let the threads end after the jobs that wait."""
        for _ in self._threads:
            self._jobs.put(None)
