"""Admits calls and runs the user's methods for them: the replica's request path.

Never more than `max_ongoing_requests` run, whatever callers believe: one too many is rejected, which costs its caller a
frame each way, and the caller is told when there is room.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from time import monotonic
from typing import Any, Protocol
from weakref import WeakSet

import cloudpickle
import msgspec

from headrace.exceptions import BackPressureError, HeadraceError, RequestTimeoutError
from headrace.observe import tracing
from headrace.observe.access_log import AccessLog
from headrace.observe.ended import EndedRequests
from headrace.observe.log_format import in_request
from headrace.observe.logs import ProcessLog
from headrace.observe.request_counts import RequestCounts
from headrace.replica.sync_worker import Job, SyncWorker
from headrace.replica.user_code import MethodKind, UserCode
from headrace.replica.user_traceback import user_traceback
from headrace.router.context import RequestContext, request_context
from headrace.router.headers import ErrorHeader, decode_call, decode_http, encode, with_ongoing
from headrace.wire import codec, frames
from headrace.wire.callee import CalleeConnection, ServerCall
from headrace.wire.errors import ConnectionLost
from headrace.wire.rpc import RpcService

logger = logging.getLogger("headrace.replica")

_REANNOUNCE_S = 0.01

_END = object()
_HTTP = frames.HTTP | frames.WEBSOCKET

CANCELLED = "CancelledError"
"""What requests are counted as that nobody waits for any more."""


class HttpCalls(Protocol):
    """What runs the calls that are HTTP requests or WebSockets."""

    def start(self, call: ServerCall) -> None: ...


class ReplicaService:
    """Takes every call that comes in on the replica's socket.

    Attributes:
        ongoing: calls that are being worked on.
        open: whether calls are admitted at all.
        controllers: connections over which control calls have come.
        counts: calls that are done.
        ended: the latest of them, the slowest and the failed ones: request id, when, how long, failure, method, route.
        http: takes HTTP requests. Made by `make_http` at the first where the deployment was not the ingress when
            it started: a redeploy may make it that, and leaves its replicas running.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app: str, deployment: str, control: RpcService) -> None:
        self.loop = loop
        self.app = app
        self.deployment = deployment
        self.ongoing = 0
        self.counts = RequestCounts()
        self.ended = EndedRequests(monotonic())
        self.open = False
        self.max_ongoing = 0
        self.user_code: UserCode = None  # type: ignore[assignment]
        self.worker: SyncWorker = None  # type: ignore[assignment]
        self.http: HttpCalls | None = None
        self.make_http: Callable[[], HttpCalls] | None = None
        self.on_idle: Callable[[], None] | None = None
        self.controllers: WeakSet[CalleeConnection] = WeakSet()
        self._control = control
        self._rejected: deque[CalleeConnection] = deque()
        self._announcing: asyncio.TimerHandle | None = None
        self._access: AccessLog | None = None

    def log_calls(self, log: ProcessLog | None) -> None:
        """From now on, note each call through a handle there if it has an access log. HTTP requests, proxies note."""
        self._access = log.access(_method_of) if log is not None else None

    def request(self, call: ServerCall) -> None:
        flags = call.flags
        if flags & frames.CONTROL:
            self.controllers.add(call.connection)
            self._control.request(call)
            return
        if self.ongoing >= self.max_ongoing or not self.open:
            self._reject(call)
            return
        self.ongoing += 1
        if flags & (frames.HTTP | frames.WEBSOCKET):
            try:
                if self.http is None:
                    self.http = self.make_http()  # type: ignore[misc]
                self.http.start(call)
            except Exception as error:
                if not call.finished:
                    self._finish_with_exception(call, error)
        else:
            self._start(call)

    def turned_away(self, call: ServerCall) -> bool:
        """Reject a large request of which only the beginning is here, where there is no room for it."""
        if call.flags & frames.CONTROL or (self.ongoing < self.max_ongoing and self.open):
            return False
        self._reject(call)
        return True

    def never_ran(self, call: ServerCall) -> None:
        if not call.flags & frames.CONTROL:
            self.released(call, CANCELLED)

    @property
    def worked_s(self) -> float:
        """Durations of all requests that are done, together, seconds."""
        return self.counts.worked_s

    @property
    def package(self) -> str | None:
        """The package or module that the user's class or function is in; None as long as there is none."""
        code: UserCode | None = self.user_code
        return None if code is None else code.package

    # Admission.

    def _reject(self, call: ServerCall) -> None:
        if call.connection not in self._rejected:
            self._rejected.append(call.connection)
        call.reject(with_ongoing(self.ongoing))

    def released(self, call: ServerCall, failure: str | None = None) -> None:
        """A call is done: its place is free. `failure`: name of the exception that it ended with."""
        self.ongoing -= 1
        context: RequestContext | None = call.note
        if context is not None:
            now = monotonic()
            took_s = now - context.began
            self.counts.record(context.route, took_s, failure, now)
            self.ended.add((context.request_id, now, took_s, failure, context.method, context.route))
            if self._access is not None and not call.flags & _HTTP:
                self._access.note((now, took_s, call.header, context.route, failure, context.request_id))
            if context.span is not None:
                context.span.ended(failure)
        if self._rejected:
            self._announce_room()
        if self.on_idle is not None and self.ongoing <= 0:
            self.on_idle()

    def set_limits(self, max_ongoing: int, open: bool) -> None:
        self.max_ongoing = max_ongoing
        self.open = open
        if self._rejected:
            self._announce_room()

    def _announce_room(self) -> None:
        """Tell as many rejected callers as there are free places; the rest a moment later, should those told no longer
        have a use for them."""
        free = self.max_ongoing - self.ongoing if self.open else 0
        if free <= 0:
            return  # whoever gives a place back announces it
        while self._rejected and free > 0:
            self._rejected.popleft().send(frames.CAPACITY, 0, 0)
            free -= 1
        if self._rejected and self._announcing is None:
            self._announcing = self.loop.call_later(_REANNOUNCE_S, self._announce_again)

    def _announce_again(self) -> None:
        self._announcing = None
        self._announce_room()

    # Running.

    def _start(self, call: ServerCall) -> None:
        try:
            header = decode_call(call.header)
            timeout_s = header.timeout_s
            now = monotonic()
            context = RequestContext(
                header.request_id,
                self.app,
                self.deployment,
                header.route,
                header.multiplexed_model_id,
                header.session_id,
                None if timeout_s is None else now + timeout_s,
                now,
                header.method,
            )
            call.note = context
            if tracing.tracer is not None:
                context.span = tracing.tracer.replica(
                    header.trace, self.app, self.deployment, header.method, header.request_id
                )
            if timeout_s is not None and timeout_s <= 0:
                self.finish_with_error(call, "timeout", f"request {header.request_id} expired before it was started")
                return
            method = self.user_code.method(header.method)
            args, kwargs = codec.decode(call.flags, call.payload)
            call.payload = b""
        except Exception as error:
            self._finish_with_exception(call, error, log=False)
            return
        token = request_context.set(context)
        attached = None if context.span is None else context.span.attach()
        try:
            streaming = call.flags & frames.STREAM
            if method.is_generator or streaming:
                if not streaming:
                    self._finish_with_exception(call, _needs_stream(method.name), log=False)
                    return
                coroutine = self._run_stream(call, context, method.function, method.kind, args, kwargs)
            elif method.kind is MethodKind.SYNC:
                self._run_sync(call, context, method.function, args, kwargs)
                return
            else:
                coroutine = self._run(call, context, method.function, args, kwargs)
            task = self.loop.create_task(coroutine)
        finally:
            request_context.reset(token)
            if attached is not None:
                context.span.detach(attached)
        call.task = task

    async def _run(
        self, call: ServerCall, context: RequestContext, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        call.entered = True
        if context.expired:  # it has waited behind others of this event loop
            self._finish_cancelled(call, context)
            return
        try:
            value = await function(*args, **kwargs)
        except asyncio.CancelledError:
            self._finish_cancelled(call, context)
        except BaseException as error:
            self._finish_with_exception(call, error)
        else:
            self._finish(call, value)

    def _run_sync(
        self, call: ServerCall, context: RequestContext, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        def done(value: Any, error: BaseException | None) -> None:
            if error is not None:
                if call.cancelled or (isinstance(error, asyncio.CancelledError) and context.expired):
                    self._finish_cancelled(call, context)
                else:
                    self._finish_with_exception(call, error)
            elif inspect.isawaitable(value):
                call.task = task_of(context, self.loop, self._run(call, context, _awaiting(value), (), {}))
            elif inspect.isgenerator(value) or inspect.isasyncgen(value):
                self._finish_with_exception(call, _needs_stream(getattr(function, "__name__", "__call__")), log=False)
            else:
                self._finish(call, value)

        job = self.worker.submit(context.unless_expired(function), args, kwargs, done)
        call.on_cancel = lambda: _cancel_job(job, context)

    async def _run_stream(
        self,
        call: ServerCall,
        context: RequestContext,
        function: Callable[..., Any],
        kind: MethodKind,
        args: Any,
        kwargs: Any,
    ) -> None:
        call.entered = True
        if context.expired:
            self._finish_cancelled(call, context)
            return
        call.start(0, b"")
        try:
            if kind is MethodKind.SYNC:
                source = await self.worker.run(function, *args, **kwargs)
            else:
                source = function(*args, **kwargs)
            if inspect.isawaitable(source):
                source = await source
            if hasattr(source, "__aiter__"):
                async for item in source:
                    await self._send_item(call, item)
            elif inspect.isgenerator(source) or hasattr(source, "__next__"):
                async for item in iterate_in_thread(self.worker, source):
                    await self._send_item(call, item)
            else:
                name = getattr(function, "__name__", "__call__")
                raise TypeError(
                    f"stream=True needs a generator, but {name!r} returned {type(source).__name__}; "
                    f"call it without stream=True"
                )
        except asyncio.CancelledError:
            await _close_stream(source if "source" in locals() else None)
            self._finish_cancelled(call, context)
        except ConnectionLost:
            await _close_stream(source)
            self._finish_cancelled(call, context)
        except BaseException as error:
            self._finish_with_exception(call, error)
        else:
            self.released(call)
            call.end(with_ongoing(self.ongoing))

    async def _send_item(self, call: ServerCall, item: Any) -> None:
        if not call.is_writable:
            await call.writable()
        flags, payload = codec.encode(item)
        call.chunk(flags, payload)

    # Finishing.

    def _finish(self, call: ServerCall, value: Any) -> None:
        try:
            flags, payload = codec.encode(value)
        except Exception as error:
            self._finish_with_exception(call, error)
            return
        self.released(call)
        call.respond(flags, with_ongoing(self.ongoing), payload)

    def _finish_cancelled(self, call: ServerCall, context: RequestContext) -> None:
        context.cancel_calls()
        self.released(call, CANCELLED)
        call.fail(0, with_ongoing(self.ongoing, encode(ErrorHeader("cancelled", ""))))

    def finish_with_error(self, call: ServerCall, kind: str, message: str) -> None:
        self.released(call, RequestTimeoutError.__name__ if kind == "timeout" else kind)
        call.fail(0, with_ongoing(self.ongoing, encode(ErrorHeader(kind, message))))

    def _finish_with_exception(self, call: ServerCall, error: BaseException, log: bool = True) -> None:
        trace = user_traceback(error)
        failure = type(error).__name__
        if call.note is not None and call.note.span is not None:
            call.note.span.failed(error, trace)
        if log and not isinstance(error, BackPressureError):
            logger.error(
                "request %s to %s failed: %s", _request_id(call), self.deployment, trace, extra=in_request(call.note)
            )
        if not isinstance(error, Exception):  # SystemExit and the like must not end the process
            error = HeadraceError(f"user code raised {type(error).__name__}: {_text(error)}")
        elif isinstance(error, StopIteration):  # asyncio's futures refuse it, so no caller could be told
            error = RuntimeError(f"user code raised StopIteration({_text(error)})")
        try:
            payload = cloudpickle.dumps(error, 5)
        except Exception:
            payload = b""
        self.released(call, failure)
        header = ErrorHeader(type(error).__name__, _text(error), trace)
        call.fail(frames.PICKLED, with_ongoing(self.ongoing, encode(header)), payload)


def task_of(
    context: RequestContext, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """A task of a request that has left the event loop meanwhile."""
    token = request_context.set(context)
    attached = None if context.span is None else context.span.attach()
    task = loop.create_task(coroutine)
    request_context.reset(token)
    if attached is not None:
        context.span.detach(attached)
    return task


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:  # of the user's `__str__`; the caller has to be answered all the same
        return f"(its __str__ raised {type(failure).__name__})"


def _request_id(call: ServerCall) -> str:
    decode = decode_http if call.flags & (frames.HTTP | frames.WEBSOCKET) else decode_call
    try:
        return decode(call.header).request_id
    except msgspec.MsgspecError:
        return "without an id"


def _method_of(header: bytes) -> str:
    return decode_call(header).method


def _needs_stream(name: str) -> TypeError:
    return TypeError(f"{name!r} is a generator; call it through handle.options(stream=True)")


async def _await(value: Any) -> Any:
    return await value


def _awaiting(value: Any) -> Callable[[], Any]:
    return lambda: _await(value)


def _cancel_job(job: Job, context: RequestContext) -> None:
    job.cancelled = True
    context.cancel_calls()


async def _close_stream(source: Any) -> None:
    """Let a generator that is not read to its end run its `finally` now."""
    close = getattr(source, "aclose", None)
    if close is not None:
        try:
            await close()
        except Exception:
            logger.debug("closing a cancelled stream failed", exc_info=True)


_SLICE_ITEMS = 64
_SLICE_S = 0.002


def _take(source: Generator[Any, None, None]) -> list[Any]:
    """Some items of a generator: what it gives within a moment, so that a hop between threads carries several, and a
    slow generator does not keep the thread from others for long."""
    items: list[Any] = []
    deadline = monotonic() + _SLICE_S
    while len(items) < _SLICE_ITEMS and (not items or monotonic() < deadline):
        try:
            items.append(next(source))
        except StopIteration:
            items.append(_END)
            break
        except BaseException as error:
            items.append(_Raised(error))
            break
    return items


class _Raised:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def iterate_in_thread(worker: SyncWorker, source: Any) -> Any:
    """Iterate over a sync generator on the worker's threads, and close it there where it is left early."""
    ended = False
    # One context for all of it: what the generator sets before a `yield`, it finds and resets after it.
    context = copy_context()
    try:
        while True:
            for item in await worker.run(context.run, _take, source):
                if item is _END:
                    ended = True
                    return
                if isinstance(item, _Raised):
                    ended = True
                    raise item.error
                yield item
    finally:
        if not ended and hasattr(source, "close"):
            worker.submit(context.run, (source.close,), {}, _closed)


def _closed(value: Any, error: BaseException | None) -> None:
    if error is not None:
        logger.debug("closing a generator failed: %s", error)
