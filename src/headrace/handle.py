"""Calling deployments: handles."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from threading import get_ident
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from headrace.exceptions import ConfigError
from headrace.handle_call import HandleCall, HandleOptions, StreamCall, UnaryCall
from headrace.observe import tracing
from headrace.response import (
    DeploymentBroadcastResponse,
    DeploymentResponse,
    DeploymentResponseGenerator,
    LoopResponse,
    ThreadResponse,
)
from headrace.router.context import RequestContext, request_context
from headrace.router.headers import CallHeader, encode
from headrace.router.http_request import freeze_request, is_request, needs_freezing
from headrace.router.hub import RouterHub, current_hub
from headrace.router.one_replica import OneReplica, each_replica
from headrace.wire import codec, frames

__all__ = [
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "HandleOptions",
    "MethodHandle",
    "StreamMethodHandle",
    "StreamingHandle",
]

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

DEFAULT_APP = "default"


_connect_driver: Callable[[], RouterHub] | None = None


def set_driver_connector(connect: Callable[[], RouterHub]) -> None:
    """How a process that is no replica gets its hub on the first call (`client` registers itself here)."""
    global _connect_driver
    _connect_driver = connect


def _driver_hub() -> RouterHub:
    if _connect_driver is None:
        importlib.import_module("headrace.api")
    assert _connect_driver is not None
    return _connect_driver()


class DeploymentHandle(Generic[T]):
    """Calls a deployment's replicas.

    `handle.remote(...)` calls `__call__`, `handle.method.remote(...)` another method. Each call goes to one replica
    that has room; where none has, it waits. Handles are what `.bind()`'s nested applications become in the constructor
    of the outer deployment; outside, `serve.run` and `serve.get_deployment_handle` return them.

    `DeploymentHandle[Model]` tells type checkers whose methods these are (with the plugin `headrace.mypy_plugin`).
    """

    def __init__(
        self, deployment_name: str, app_name: str = DEFAULT_APP, *, _options: HandleOptions | None = None
    ) -> None:
        self.deployment_name = deployment_name
        self.app_name = app_name
        self._options = _options or HandleOptions()

    @overload
    def options(
        self,
        *,
        stream: Literal[True],
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
        _prefer_local_routing: bool | None = None,
    ) -> StreamingHandle[T]: ...
    @overload
    def options(
        self,
        *,
        method_name: str | None = None,
        stream: bool | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
        _prefer_local_routing: bool | None = None,
    ) -> DeploymentHandle[T]: ...
    def options(
        self,
        *,
        method_name: str | None = None,
        stream: bool | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
        _prefer_local_routing: bool | None = None,
    ) -> DeploymentHandle[T]:
        """A handle to the same deployment that calls differently; see `HandleOptions`. None leaves as it is.

        Raises:
            ConfigError: an option's value is of the wrong type.
        """
        given = {
            "method_name": method_name,
            "stream": stream,
            "multiplexed_model_id": multiplexed_model_id,
            "session_id": session_id,
            "retryable": retryable,
            "timeout_s": timeout_s,
        }
        changes = {name: _checked(name, value) for name, value in given.items() if value is not None}
        if routing_hint is not None:
            changes["routing_hint"] = routing_hint
        return self._with(self._options._replace(**changes))

    def _with(self, options: HandleOptions) -> DeploymentHandle[T]:
        return type(self)(self.deployment_name, self.app_name, _options=options)

    def __getattr__(self, name: str) -> DeploymentHandle[T]:
        if name.startswith("__") and name.endswith("__") and name != "__call__":
            raise AttributeError(name)
        bound = self._with(self._options._replace(method_name=name))
        self.__dict__[name] = bound
        return bound

    @overload
    def method(
        self, method: Callable[Concatenate[T, P], AsyncIterator[R]], *, stream: Literal[True]
    ) -> StreamMethodHandle[P, R]: ...
    @overload
    def method(
        self, method: Callable[Concatenate[T, P], Iterator[R]], *, stream: Literal[True]
    ) -> StreamMethodHandle[P, R]: ...
    @overload
    def method(
        self, method: Callable[Concatenate[T, P], Awaitable[R]], *, stream: Literal[False] = False
    ) -> MethodHandle[P, R]: ...
    @overload
    def method(
        self, method: Callable[Concatenate[T, P], R], *, stream: Literal[False] = False
    ) -> MethodHandle[P, R]: ...
    def method(self, method: Callable[..., Any], *, stream: bool = False) -> Any:
        """The same as `handle.<name>`, for editors: `handle.method(Model.predict).remote(` completes and is checked
        by every type checker, without a plugin."""
        return self._with(self._options._replace(method_name=method.__name__, stream=stream))

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call; returns at once.

        Arguments may be anything picklable, DeploymentResponses (their values are passed) and HTTP requests.

        Returns:
            A DeploymentResponse, or a DeploymentResponseGenerator where `stream=True`.

        Raises:
            SerializationError: an argument cannot be sent to another process.
        """
        hub = current_hub() or _driver_hub()
        context = request_context.get()
        if get_ident() == hub.thread_id:
            return self._send_here(hub, context, args, kwargs)
        return self._send_elsewhere(hub, context, args, kwargs)

    def _send_here(
        self, hub: RouterHub, context: RequestContext | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DeploymentResponse[Any] | DeploymentResponseGenerator[Any]:
        """From code on the router's own loop: nothing is handed to another thread."""
        loop = hub.loop
        options = self._options
        request_id = context.request_id if context is not None else str(uuid.uuid4())
        call: UnaryCall | StreamCall
        response: LoopResponse[Any] | DeploymentResponseGenerator[Any]
        if options.stream:
            call = StreamCall(loop, request_id, context, options)
            response = DeploymentResponseGenerator(call, loop, here=True)
        else:
            response = LoopResponse(loop=loop)
            call = response.call = UnaryCall(response, request_id, context, options)
        if _needs_resolving(args, kwargs):
            task = loop.create_task(self._resolve_and_submit(hub, call, args, kwargs))
            _background.add(task)
            task.add_done_callback(_background.discard)
        else:
            self._submit(hub, call, codec.encode((args, kwargs)))
        return response

    def _send_elsewhere(
        self, hub: RouterHub, context: RequestContext | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DeploymentResponse[Any] | DeploymentResponseGenerator[Any]:
        """From another thread: a driver, or a sync method of a replica."""
        loop = hub.loop
        options = self._options
        request_id = context.request_id if context is not None else str(uuid.uuid4())
        call: UnaryCall | StreamCall
        response: ThreadResponse[Any] | DeploymentResponseGenerator[Any]
        if options.stream:
            call = StreamCall(loop, request_id, context, options)
            response = DeploymentResponseGenerator(call, loop, here=False)
        else:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            call = UnaryCall(future, request_id, context, options)
            response = ThreadResponse(call, future, loop)
        if _needs_resolving(args, kwargs):
            asyncio.run_coroutine_threadsafe(self._resolve_and_submit(hub, call, args, kwargs), loop)
        else:
            loop.call_soon_threadsafe(self._submit, hub, call, codec.encode((args, kwargs)))
        return response

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse:
        """Call a method of every replica that takes requests now, for what is about replicas and not about requests:
        emptying a cache, taking on a setting. Replicas that come later are not called.

        `max_queued_requests` does not count; a replica that is full answers when it has room.

        Args:
            method_name: of the deployment's class; it must not stream.
            args, kwargs: of the method, the same for all.

        Returns:
            What tells the values: `results()`, or in async code `await results_async()`. The calls are sent at once.
        """
        hub, context = self._hub(), request_context.get()
        handle = self._with(self._options._replace(method_name=method_name, stream=False))
        sending = handle._call_each(hub, context, args, kwargs)
        return DeploymentBroadcastResponse(asyncio.run_coroutine_threadsafe(sending, hub.loop))

    async def _call_each(
        self, hub: RouterHub, context: RequestContext | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """The outcome at each replica: a value or an exception."""
        values = await asyncio.gather(*map(_resolve, args), *map(_resolve, kwargs.values()))
        resolved = tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))
        request_id = context.request_id if context is not None else str(uuid.uuid4())
        answers: list[asyncio.Future[Any]] = []
        for replica in await each_replica(hub.router(self.app_name, self.deployment_name)):
            answer: asyncio.Future[Any] = hub.loop.create_future()
            answers.append(answer)
            call = UnaryCall(answer, request_id, context, self._options)
            self._submit(hub, call, codec.encode(resolved), replica)
        return await asyncio.gather(*answers, return_exceptions=True)

    def _submit(
        self, hub: RouterHub, call: HandleCall, encoded: tuple[int, Any], replica: OneReplica | None = None
    ) -> None:
        if call.settled:
            return
        options = self._options
        context = call.context
        timeout_s = options.timeout_s
        route = ""
        if context is not None:
            route = context.route
            if context.deadline is not None:
                remaining_s = context.deadline - time.monotonic()
                timeout_s = remaining_s if timeout_s is None else min(timeout_s, remaining_s)
        if timeout_s is not None:
            call.expire_at(hub.loop, time.monotonic() + timeout_s)
        flags, call.payload = encoded
        call.flags = flags | frames.STREAM if options.stream else flags
        trace = b""
        if tracing.tracer is not None:
            span = call.trace = tracing.tracer.call(
                self.app_name, self.deployment_name, options.method_name, call.request_id
            )
            trace = span.wire()
        call.header = encode(
            CallHeader(
                options.method_name,
                call.request_id,
                route,
                options.multiplexed_model_id,
                options.session_id,
                timeout_s,
                trace,
            )
        )
        (replica or hub.router(self.app_name, self.deployment_name)).submit(call)

    def running_replicas_populated(self) -> bool:
        """Whether the deployment has a replica that takes requests from here now. Sends nothing."""
        hub = self._hub()
        if get_ident() == hub.thread_id:
            return self._has_replicas(hub)
        return asyncio.run_coroutine_threadsafe(self._ask_has_replicas(hub), hub.loop).result()

    def _hub(self) -> RouterHub:
        return current_hub() or _driver_hub()

    async def _ask_has_replicas(self, hub: RouterHub) -> bool:
        return self._has_replicas(hub)

    def _has_replicas(self, hub: RouterHub) -> bool:
        return hub.router(self.app_name, self.deployment_name).ready_replicas > 0

    async def _resolve_and_submit(
        self, hub: RouterHub, call: HandleCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        try:
            values = await asyncio.gather(*map(_resolve, args), *map(_resolve, kwargs.values()))
            resolved = tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))
            self._submit(hub, call, codec.encode(resolved))
        except Exception as error:
            call.fail(error)

    def __reduce__(self) -> tuple[Any, ...]:
        options = tuple(self._options._replace(routing_hint=None))
        return _rebuild, (type(self), self.deployment_name, self.app_name, options)

    def __repr__(self) -> str:
        return f"DeploymentHandle(deployment={self.deployment_name!r}, app={self.app_name!r})"


_TYPES_ONLY = "is what type checkers see; at run time there is only DeploymentHandle"


class StreamingHandle(DeploymentHandle[T]):
    """A handle with `stream=True`, as type checkers see it; at run time a DeploymentHandle."""

    def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponseGenerator[Any]:
        raise TypeError(f"StreamingHandle {_TYPES_ONLY}")


class MethodHandle(Generic[P, R_co]):
    """One method of a deployment, as type checkers see it; at run time a DeploymentHandle."""

    @overload
    def options(
        self: MethodHandle[P, AsyncIterator[R]],
        *,
        stream: Literal[True],
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
    ) -> StreamMethodHandle[P, R]: ...
    @overload
    def options(
        self: MethodHandle[P, Iterator[R]],
        *,
        stream: Literal[True],
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
    ) -> StreamMethodHandle[P, R]: ...
    @overload
    def options(
        self,
        *,
        stream: Literal[False] | None = None,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
    ) -> MethodHandle[P, R_co]: ...
    def options(self, **options: Any) -> Any:
        raise TypeError(f"MethodHandle {_TYPES_ONLY}")

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> DeploymentResponse[R_co]:
        raise TypeError(f"MethodHandle {_TYPES_ONLY}")


class StreamMethodHandle(Generic[P, R_co]):
    """One method of a handle with `stream=True`, as type checkers see it; at run time a DeploymentHandle."""

    def options(
        self,
        *,
        multiplexed_model_id: str | None = None,
        session_id: str | None = None,
        retryable: bool | None = None,
        timeout_s: float | None = None,
        routing_hint: Any = None,
    ) -> StreamMethodHandle[P, R_co]:
        raise TypeError(f"StreamMethodHandle {_TYPES_ONLY}")

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> DeploymentResponseGenerator[R_co]:
        raise TypeError(f"StreamMethodHandle {_TYPES_ONLY}")


_background: set[asyncio.Task[None]] = set()

_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "method_name": (str,),
    "stream": (bool,),
    "multiplexed_model_id": (str,),
    "session_id": (str,),
    "retryable": (bool,),
    "timeout_s": (int, float),
}


def _checked(name: str, value: Any) -> Any:
    expected = _OPTION_TYPES[name]
    wrong = not isinstance(value, expected)
    if name == "timeout_s" and not wrong:
        wrong = isinstance(value, bool) or not value > 0
    if wrong:
        wanted = "a positive number of seconds" if name == "timeout_s" else f"a {expected[0].__name__}"
        raise ConfigError(f"handle option {name}: expected {wanted}, got {value!r}")
    return value


def _needs_resolving(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(map(_is_pending, args)) or (bool(kwargs) and any(map(_is_pending, kwargs.values())))


def _is_pending(value: Any) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return False
    return issubclass(kind, _RESPONSES) or (is_request(value) and needs_freezing(value))


_PLAIN = frozenset((int, str, float, bool, bytes, dict, list, tuple, type(None)))
_RESPONSES = (DeploymentResponse, DeploymentResponseGenerator)


async def _resolve(value: Any) -> Any:
    if isinstance(value, DeploymentResponse):
        return await value
    if isinstance(value, DeploymentResponseGenerator):
        raise TypeError("a streamed response cannot be an argument of another call; iterate over it and pass the items")
    if is_request(value):
        return await freeze_request(value)
    return value


def _rebuild(
    kind: type[DeploymentHandle[Any]], deployment_name: str, app_name: str, options: tuple[Any, ...]
) -> DeploymentHandle[Any]:
    handle = kind(deployment_name, app_name, _options=HandleOptions(*options))
    hub = current_hub()
    if hub is not None and get_ident() == hub.thread_id:
        hub.router(app_name, deployment_name)  # subscribe now, so that the first call finds replicas
    return handle
