"""What a handle's call returns at once: the promise of a value, or of a stream of values."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, Generic, NoReturn, TypeVar

from headrace.exceptions import ConfigError, RequestCancelledError, SerializationError
from headrace.handle_call import StreamCall, UnaryCall

R_co = TypeVar("R_co", covariant=True)


_BY_USER = object()


def _refuse_in_loop(instead: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"this would block the running event loop; use {instead} instead")


class DeploymentResponse(Generic[R_co]):
    """The answer to `handle.remote(...)`, on its way.

    Await it in async code, call `result()` in sync code, or pass it as an argument to another handle's call, which
    then gets the value. The request is sent when `remote()` is called, whether or not anybody awaits the response.
    """

    __slots__ = ()

    @property
    def request_id(self) -> str:
        raise TypeError("DeploymentResponses are made by handles")

    def __await__(self) -> Generator[Any, None, R_co]:
        raise TypeError("DeploymentResponses are made by handles")

    def result(self, timeout_s: float | None = None, *, _skip_asyncio_check: bool = False) -> R_co:
        """Wait for the value, in code that is not async.

        Args:
            timeout_s: how long, in seconds; None for as long as it takes.

        Raises:
            TimeoutError: not there in time; the request goes on.
            RuntimeError: called on an event loop, which it would block.
            Exception: whatever the deployment's code raised.
        """
        raise TypeError("DeploymentResponses are made by handles")

    def cancel(self) -> Any:
        """Cancel the request, wherever it is, with every call that it has made. Awaiting it raises
        RequestCancelledError. Does nothing once it is answered."""
        raise TypeError("DeploymentResponses are made by handles")

    def cancelled(self) -> bool:
        """Whether it was cancelled before the answer came."""
        raise TypeError("DeploymentResponses are made by handles")

    def done(self) -> bool:
        """Whether the answer is there."""
        raise TypeError("DeploymentResponses are made by handles")

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            "a DeploymentResponse can be passed to another deployment only as an argument of its own, "
            "not inside a list, dict or object; await it first, or pass it directly"
        )

    def __repr__(self) -> str:
        return f"DeploymentResponse(request_id={self.request_id!r}, done={self.done()})"


class LoopResponse(asyncio.Future[Any], DeploymentResponse[R_co]):
    """The response to a call from the router's own event loop.

    It is a future itself, so that awaiting it, alone or in `asyncio.gather`, costs no task and no further object.
    """

    call: UnaryCall
    _stopped = False

    @property
    def request_id(self) -> str:
        return self.call.request_id

    def __await__(self) -> Generator[Any, None, R_co]:
        if not self.done():
            self._asyncio_future_blocking = True
            yield self
        try:
            return asyncio.Future.result(self)  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if self._stopped:
                raise RequestCancelledError(self.request_id) from None
            raise

    def result(self, timeout_s: float | None = None, *, _skip_asyncio_check: bool = False) -> R_co:
        if self.done():
            return asyncio.Future.result(self)  # type: ignore[no-any-return]
        raise RuntimeError("this would block the running event loop; use `await response` instead")

    def cancel(self, msg: Any = _BY_USER) -> bool:
        # asyncio passes a message where a task that awaits this is being cancelled.
        if self.done():
            return False
        if msg is _BY_USER:
            self._stopped = True
            msg = None
        asyncio.Future.cancel(self, msg)
        self.call.cancel()
        return True

    def __reduce__(self) -> NoReturn:
        DeploymentResponse.__reduce__(self)

    def __repr__(self) -> str:
        return DeploymentResponse.__repr__(self)


class ThreadResponse(DeploymentResponse[R_co]):
    """The response to a call from any other thread: a driver's, or a sync method's."""

    __slots__ = ("__weakref__", "_call", "_future", "_loop", "_stopped")

    def __init__(
        self, call: UnaryCall, future: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._call = call
        self._future = future
        self._loop = loop
        self._stopped = False

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def __await__(self) -> Generator[Any, None, R_co]:
        try:
            return (yield from asyncio.wrap_future(self._future))  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if self._stopped:
                raise RequestCancelledError(self.request_id) from None
            # The task that awaits is being cancelled, and what it waits for with it.
            self.cancel()
            raise

    def result(self, timeout_s: float | None = None, *, _skip_asyncio_check: bool = False) -> R_co:
        if not _skip_asyncio_check:
            _refuse_in_loop("`await response`")
        future = self._future
        try:
            return future.result(timeout_s)  # type: ignore[no-any-return]
        except concurrent.futures.CancelledError:
            raise RequestCancelledError(self.request_id) from None
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(f"request {self.request_id} was not answered within {timeout_s} s") from None

    def cancel(self) -> None:
        if self._future.done() and not self._future.cancelled():
            return
        self._stopped = True
        self._loop.call_soon_threadsafe(self._call.cancel)

    def cancelled(self) -> bool:
        return self._stopped

    def done(self) -> bool:
        return self._future.done()


class DeploymentResponseGenerator(Generic[R_co]):
    """The answers to a streaming call, on their way: iterate with `async for`, or with `for` in sync code."""

    __slots__ = ("__weakref__", "_call", "_here", "_loop", "_stopped")

    def __init__(self, call: StreamCall, loop: asyncio.AbstractEventLoop, here: bool) -> None:
        self._call = call
        self._loop = loop
        self._here = here
        self._stopped = False

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def __aiter__(self) -> AsyncIterator[R_co]:
        return self

    async def __anext__(self) -> R_co:
        try:
            if self._here:
                return await self._call.next()  # type: ignore[no-any-return]
            return await asyncio.wrap_future(self._next_elsewhere())
        except asyncio.CancelledError:
            if self._stopped:
                raise RequestCancelledError(self.request_id) from None
            self.cancel()
            raise

    def __iter__(self) -> Iterator[R_co]:
        return self

    def __next__(self) -> R_co:
        _refuse_in_loop("`async for`")
        if self._here:
            raise RuntimeError("this stream belongs to an event loop; use `async for` there")
        try:
            return self._next_elsewhere().result()
        except StopAsyncIteration:
            raise StopIteration from None

    def _next_elsewhere(self) -> concurrent.futures.Future[R_co]:
        return asyncio.run_coroutine_threadsafe(self._call.next(), self._loop)

    def result(self, timeout_s: float | None = None) -> NoReturn:
        raise TypeError("a stream has no single result; iterate over it: `for item in response`")

    def __await__(self) -> NoReturn:
        raise TypeError("a stream cannot be awaited; iterate over it: `async for item in response`")

    def cancel(self) -> None:
        """Stop the stream at its source; iterating on raises RequestCancelledError."""
        self._stopped = True
        if self._here:
            self._call.cancel()
        else:
            self._loop.call_soon_threadsafe(self._call.cancel)

    def cancelled(self) -> bool:
        return self._stopped

    def __reduce__(self) -> NoReturn:
        raise SerializationError("a DeploymentResponseGenerator cannot be passed to another deployment; pass its items")

    def __del__(self) -> None:
        # A stream that nobody reads any more would hold its replica's place for ever.
        call = getattr(self, "_call", None)
        if call is not None and not call.settled:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call.cancel)


class DeploymentBroadcastResponse:
    """The answers to `handle.broadcast(...)`, on their way, in no particular order."""

    def __init__(self, outcomes: concurrent.futures.Future[list[Any]]) -> None:
        self._outcomes = outcomes

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Wait for the values, in code that is not async.

        Args:
            timeout_s: how long, in seconds; None for as long as it takes.
            return_exceptions: put the exception of a replica that raised into the list instead of raising it.

        Raises:
            TimeoutError: not all there in time; the calls go on.
            RuntimeError: called on an event loop, which it would block.
            DeploymentUnavailableError: there is no replica.
            Exception: the first of what replicas raised, once all have answered.
        """
        _refuse_in_loop("await response.results_async()")
        return _values(self._outcomes.result(_checked(timeout_s)), return_exceptions)

    async def results_async(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """The same as `results`, in async code."""
        async with asyncio.timeout(_checked(timeout_s)):
            outcomes = await asyncio.shield(asyncio.wrap_future(self._outcomes))
        return _values(outcomes, return_exceptions)


def _checked(timeout_s: float | None) -> float | None:
    if timeout_s is not None and timeout_s < 0:
        raise ConfigError(f"timeout_s: must be at least 0, or None, not {timeout_s!r}")
    return timeout_s


def _values(outcomes: list[Any], return_exceptions: bool) -> list[Any]:
    if not return_exceptions:
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
    return outcomes
