"""A handle's request on its way: what the router calls back, turned into futures and streams of Python values."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.exceptions import (
    BackPressureError,
    RemoteError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
)
from headrace.router.call import RoutedCall
from headrace.router.context import RequestContext
from headrace.router.headers import decode_error
from headrace.wire import codec

if TYPE_CHECKING:
    from headrace.observe.spans import Span

Future = asyncio.Future[Any] | concurrent.futures.Future[Any]


class HandleOptions(NamedTuple):
    """What `handle.options(...)` sets.

    Attributes:
        method_name: which method to call.
        stream: the method is a generator, and `remote` returns a DeploymentResponseGenerator.
        multiplexed_model_id: the model to use, see `multiplexed`.
        session_id: calls of one session go to one replica while it has room.
        retryable: the call may run twice, so it is sent again when its replica dies.
        timeout_s: fail with RequestTimeoutError after this many seconds; None for the caller's own deadline.
        routing_hint: any value, which the deployment's routing policy sees as `request.routing_hint`. It stays in this
            process: neither calls nor pickled handles carry it.
    """

    method_name: str = "__call__"
    stream: bool = False
    multiplexed_model_id: str = ""
    session_id: str = ""
    retryable: bool = False
    timeout_s: float | None = None
    routing_hint: Any = None


DONE: concurrent.futures.Future[Any] = concurrent.futures.Future()
"""Stands in for the future of a call that has been settled."""
DONE.set_result(None)


class RemoteTraceback(Exception):
    """Shows, as the cause of a user's exception, where in the replica it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def error_from(header: bytes, payload: bytes | memoryview, request_id: str) -> Exception:
    """The exception that an ERROR frame carries."""
    described = decode_error(header[4:])
    if described.kind == "cancelled":
        return RequestCancelledError(request_id)
    if described.kind == "timeout":
        return RequestTimeoutError(described.message)
    error: BaseException | None = None
    if len(payload):
        try:
            error = pickle.loads(payload)
        except Exception:  # the class, or its constructor, cannot be had here
            error = None
    if not isinstance(error, Exception):
        error = RemoteError(f"{described.kind}: {described.message}")
    if described.traceback and not isinstance(error, BackPressureError):
        error.__cause__ = RemoteTraceback(described.traceback)
    return error


class HandleCall(RoutedCall):
    """What unary and streaming calls share: the request's id, its place in its parent's context, its time limit."""

    __slots__ = ("context", "request_id", "routing_hint", "timer")

    trace: Span | None

    def __init__(self, request_id: str, context: RequestContext | None, options: HandleOptions) -> None:
        super().__init__(
            0, b"", b"", options.method_name, options.multiplexed_model_id, options.session_id, options.retryable
        )
        self.routing_hint = options.routing_hint
        self.request_id = request_id
        self.context = context
        self.timer: asyncio.TimerHandle | None = None
        if context is not None:
            if context.calls is None:
                context.calls = {self}
            else:
                context.calls.add(self)

    def settle(self) -> None:
        """No longer under way: its parent need not cancel it, its time limit is void."""
        context = self.context
        if context is not None and context.calls is not None:
            context.calls.discard(self)
        if self.timer is not None:
            self.timer.cancel()

    def expire_at(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Fail it with RequestTimeoutError at `deadline` (`time.monotonic()`)."""
        self.timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        if not self.settled:
            super().cancel()
            self.settle()
            self.failed(RequestTimeoutError(f"request {self.request_id} was not answered before its deadline"))

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        self.settle()
        self.failed(RequestCancelledError(self.request_id))
        return True


class UnaryCall(HandleCall):
    """Ends in a future: one of asyncio's where the caller lives on the router's loop, else one of threads'."""

    __slots__ = ("future",)

    def __init__(self, future: Future, request_id: str, context: RequestContext | None, options: HandleOptions) -> None:
        super().__init__(request_id, context, options)
        self.future = future

    def answered(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.settle()
        future = self.future
        if future.done():
            return
        try:
            value = codec.decode(flags, payload)
        except Exception as error:
            self.failed(_undecodable(error))
            return
        future.set_result(value)
        if self.trace is not None:
            self.trace.ended()
        # The response refers to the call; letting go here spares the garbage collector a cycle per request.
        self.future = DONE

    def failed_remotely(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.settle()
        self.failed(error_from(header, payload, self.request_id))

    def failed(self, error: Exception) -> None:
        self.settle()
        if self.trace is not None:
            self.trace.ended_with(error)
        if not self.future.done():
            self.future.set_exception(error)
            # Retrieved, as far as asyncio's complaint about forgotten exceptions goes: calls may be fire and forget.
            self.future.exception()
        self.future = DONE


class StreamCall(HandleCall):
    """Ends in items, one by one; lives on the router's loop and is read there."""

    __slots__ = ("_done", "_error", "_items", "_loop", "_waiter")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request_id: str,
        context: RequestContext | None,
        options: HandleOptions,
    ) -> None:
        super().__init__(request_id, context, options)
        self._loop = loop
        self._items: deque[tuple[int, bytes | memoryview]] = deque()
        self._done = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def piece(self, flags: int, payload: bytes | memoryview) -> None:
        self._items.append((flags, payload))
        self._wake()

    def ended(self) -> None:
        self.settle()
        if self.trace is not None:
            self.trace.ended()
        self._done = True
        self._wake()

    def answered(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.failed(TypeError("the replica answered a streaming call with a single value"))

    def failed_remotely(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.failed(error_from(header, payload, self.request_id))

    def failed(self, error: Exception) -> None:
        self.settle()
        if self.trace is not None:
            self.trace.ended_with(error)
        self._error = error
        self._wake()

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        self._items.clear()
        return True

    async def next(self) -> Any:
        """The next item.

        Raises:
            StopAsyncIteration: there are no more.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._done:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        flags, payload = self._items.popleft()
        self.took(len(payload))
        try:
            return codec.decode(flags, payload)
        except Exception as error:
            raise _undecodable(error) from error


def _undecodable(error: Exception) -> SerializationError:
    return SerializationError(
        f"the answer cannot be unpickled here: {type(error).__name__}: {error}. "
        f"The classes of what a deployment returns must be importable by its callers"
    )
