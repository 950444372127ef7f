"""The user's class or function: made, looked into, reconfigured, asked after its health, let go."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

from headrace.exceptions import HeadraceError
from headrace.replica.sync_worker import SyncWorker
from headrace.router.replica_context import ReplicaRank, current_replica

logger = logging.getLogger("headrace.replica")


class MethodKind(Enum):
    ASYNC = "async"
    SYNC = "sync"
    ASYNC_GENERATOR = "async generator"
    SYNC_GENERATOR = "generator"


class Method:
    """A method that callers may call.

    Attributes:
        function: bound to the user's instance.
        kind: how it runs.
        retryable: marked with `serve.retryable`.
    """

    __slots__ = ("function", "kind", "name", "retryable")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.kind = kind_of(function)
        self.retryable = bool(getattr(function, "__headrace_retryable__", False))

    @property
    def is_generator(self) -> bool:
        return self.kind in (MethodKind.ASYNC_GENERATOR, MethodKind.SYNC_GENERATOR)


def kind_of(function: Callable[..., Any]) -> MethodKind:
    """How to run a function: looks through partials and at `__call__` of objects."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isfunction(function) or inspect.ismethod(function)) and not inspect.isbuiltin(function):
        function = getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(function):
        return MethodKind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(function):
        return MethodKind.ASYNC
    if inspect.isgeneratorfunction(function):
        return MethodKind.SYNC_GENERATOR
    return MethodKind.SYNC


class UserCode:
    """
    Args:
        target: the class or function of the deployment.
        args, kwargs: of the class's constructor.
        worker: where its sync methods run.
    """

    def __init__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], worker: SyncWorker) -> None:
        self._target = target
        self._args = args
        self._kwargs = kwargs
        self._worker = worker
        self._methods: dict[str, Method] = {}
        self._health_worker: SyncWorker | None = None
        self.instance: Any = None

    async def construct(self) -> None:
        """Run the constructor: on the event loop's thread, which is the main thread, because constructors may start
        tasks and because some libraries (signal handlers, CUDA) want that one. `async def __init__` is awaited."""
        target, args, kwargs = self._target, self._args, self._kwargs
        if not inspect.isclass(target):
            self.instance = target
        elif inspect.iscoroutinefunction(target.__init__):
            instance = target.__new__(target, *args, **kwargs)
            await instance.__init__(*args, **kwargs)  # type: ignore[misc]
            self.instance = instance
        else:
            self.instance = target(*args, **kwargs)
        self._args, self._kwargs = (), {}

    def method(self, name: str) -> Method:
        """A public method by name.

        Raises:
            AttributeError: there is none; the message lists those there are.
        """
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._find(name)
        return method

    def _find(self, name: str) -> Method:
        instance = self.instance
        if not inspect.isclass(self._target):
            if name != "__call__":
                raise AttributeError(
                    f"deployment of function {_name(self._target)} has no method {name!r}; call it itself"
                )
            return Method(name, instance)
        function = getattr(instance, name, None)
        if not callable(function) or (name.startswith("__") and name != "__call__"):
            available = ", ".join(self.method_names()) or "none"
            raise AttributeError(f"class {_name(self._target)} has no method {name!r}; it has: {available}")
        return Method(name, function)

    def method_names(self) -> list[str]:
        """Names of the public methods."""
        if not inspect.isclass(self._target):
            return ["__call__"]
        names = [name for name, value in inspect.getmembers(self._target, callable) if not name.startswith("_")]
        return (["__call__"] if "__call__" in dir(self._target) else []) + names

    def retryable_methods(self) -> list[str]:
        return [name for name in self.method_names() if self.method(name).retryable]

    @property
    def package(self) -> str | None:
        """The package or module that the class or function is in; None where it says none."""
        target = self._target.func if isinstance(self._target, functools.partial) else self._target
        module = getattr(target, "__module__", None)
        return module.partition(".")[0] if isinstance(module, str) else None

    @property
    def has_reconfigure(self) -> bool:
        return callable(getattr(self.instance, "reconfigure", None))

    @property
    def has_check_health(self) -> bool:
        return callable(getattr(self.instance, "check_health", None))

    @property
    def has_autoscaling_stats(self) -> bool:
        return callable(getattr(self.instance, "record_autoscaling_stats", None))

    async def autoscaling_stats(self) -> Any:
        """What the user's `record_autoscaling_stats` returns; raises what it raises. Sync ones share a thread with
        `check_health`: a long request must not keep them."""
        return await self._call_hook(self.instance.record_autoscaling_stats, self._hook_worker())

    @property
    def wants_rank(self) -> bool:
        """Whether the user's `reconfigure` takes the replica's rank too."""
        return self.has_reconfigure and "rank" in inspect.signature(self.instance.reconfigure).parameters

    async def reconfigure(self, user_config: Any) -> None:
        """Hand the user's `reconfigure` a new `user_config`, and the replica's rank if it takes one.

        Raises:
            HeadraceError: the class has no such method.
        """
        if not self.has_reconfigure:
            raise HeadraceError(
                f"user_config is set, but {_name(self._target)} has no method reconfigure(self, user_config) to take it"
            )
        hook = self.instance.reconfigure
        if self.wants_rank:
            replica = current_replica()
            hook = functools.partial(hook, rank=replica.rank if replica is not None else ReplicaRank())
        await self._call_hook(hook, self._worker, user_config)

    async def check_health(self) -> None:
        """Call the user's `check_health`; raises what it raises. Sync ones get a thread of their own, so that a long
        request does not make a replica look ill."""
        if self.has_check_health:
            await self._call_hook(self.instance.check_health, self._hook_worker())

    def _hook_worker(self) -> SyncWorker:
        if self._health_worker is None:
            self._health_worker = SyncWorker(asyncio.get_running_loop(), 1, "headrace-health")
        return self._health_worker

    async def close(self) -> None:
        """Call the user's `__del__` (sync or async), once, and let go of the instance."""
        instance, self.instance = self.instance, None
        self._methods.clear()
        if not inspect.isclass(self._target) or instance is None:
            return
        finalizer = getattr(type(instance), "__del__", None)
        if finalizer is None:
            return
        try:
            result = finalizer(instance)
            if inspect.isawaitable(result):
                await result
        finally:
            _disarm(instance)

    async def _call_hook(self, function: Callable[..., Any], worker: SyncWorker, *args: Any) -> Any:
        if kind_of(function) is MethodKind.ASYNC:
            return await function(*args)
        result = await worker.run(function, *args)
        return await result if inspect.isawaitable(result) else result


def _disarm(instance: Any) -> None:
    """The interpreter would call `__del__` a second time when the object goes, and could not await it. Other instances
    of the class keep theirs."""
    kind: Any = type(instance)
    try:
        instance.__class__ = type(kind)(kind.__name__, (kind,), {"__slots__": (), "__del__": lambda self: None})
    except Exception:
        logger.debug("__del__ of %r may run once more", kind)


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", None) or repr(target)
