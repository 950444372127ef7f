"""`@serve.multiplexed`: many models in one replica, loaded when asked for, the least recently used one unloaded."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload
from weakref import WeakSet

from headrace.batching.failures import own_copies
from headrace.batching.per_instance import PerInstance
from headrace.exceptions import ConfigError, ConfigTypeError, HeadraceError
from headrace.observe.model_counts import ModelCounts
from headrace.router import loaded_models
from headrace.router.context import current

logger = logging.getLogger("headrace.multiplex")

P = ParamSpec("P")
M = TypeVar("M")
_UNLIMITED = -1
_MISSING = object()


class _Load:
    """A model that is being loaded, and the requests that wait for it."""

    __slots__ = ("task", "waiters")

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[Any]] = []
        self.task: asyncio.Task[None] | None = None


class _Models:
    """One instance's models, in order of use. On one event loop at a time.

    Never more than `capacity` models are loaded, being loaded or being unloaded at any time: `_places` counts them.
    """

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._loaded: OrderedDict[str, Any] = OrderedDict()
        self._loads: dict[str, _Load] = {}
        self._places = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._door = asyncio.Lock()
        self._place_changed = asyncio.Event()
        loaded_models.register(self)
        _all.add(self)
        _counts.export()

    def model_ids(self) -> list[str]:
        return [*self._loaded, *self._loads]

    def loaded_ids(self) -> list[str]:
        return list(self._loaded)

    async def get(self, instance: object | None, model_id: str) -> Any:
        _counts.requests += 1
        model = self._loaded.get(model_id, _MISSING)
        if model is not _MISSING:
            self._loaded.move_to_end(model_id)
            return model
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        load = self._loads.get(model_id)
        if load is None:
            load = self._loads[model_id] = _Load()
            # A task of its own: the request that came first may be cancelled, and the others still want the model.
            load.task = loop.create_task(self._load(instance, model_id, load))
            loaded_models.changed()
        waiter: asyncio.Future[Any] = loop.create_future()
        load.waiters.append(waiter)
        return await waiter

    async def unload_all(self) -> None:
        while self._loaded:
            await self._unload_oldest()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise HeadraceError(
                f"{self._loader.name} is called on two event loops: call it from async code of the replica only"
            )
        self._loop = loop
        self._door, self._place_changed = asyncio.Lock(), asyncio.Event()
        self._loads.clear()
        self._places = len(self._loaded)

    async def _load(self, instance: object | None, model_id: str, load: _Load) -> None:
        try:
            await self._take_place()
            started = time.monotonic()
            try:
                model = await self._loader.load(instance, model_id)
            except BaseException:
                self._places -= 1
                raise
            self._loaded[model_id] = model
            took_s = time.monotonic() - started
            _counts.load_ms.add(1000 * took_s)
            logger.debug("loaded model %r in %.3f s", model_id, took_s)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                for waiter in load.waiters:
                    waiter.cancel()
                raise
            self._fail(model_id, load, HeadraceError(f"loading model {model_id!r} raised CancelledError"))
        except Exception as error:
            self._fail(model_id, load, error)
        else:
            for waiter in load.waiters:
                if not waiter.done():
                    waiter.set_result(model)
        finally:
            del self._loads[model_id]
            load.task = None
            self._place_changed.set()
            loaded_models.changed()

    def _fail(self, model_id: str, load: _Load, error: Exception) -> None:
        waiting = [waiter for waiter in load.waiters if not waiter.done()]
        if not waiting:
            logger.warning("loading model %r failed, and nobody waits for it any more: %r", model_id, error)
            return
        for waiter, own in zip(waiting, own_copies(error, len(waiting)), strict=True):
            waiter.set_exception(own)

    async def _take_place(self) -> None:
        """Return when there is a place for one more model, and have it."""
        capacity = self._loader.capacity
        async with self._door:
            while capacity != _UNLIMITED and self._places >= capacity:
                if self._loaded:
                    await self._unload_oldest()
                else:
                    # All places are taken by models that are being loaded: those that finish can be unloaded.
                    self._place_changed.clear()
                    await self._place_changed.wait()
            self._places += 1

    async def _unload_oldest(self) -> None:
        model_id, model = self._loaded.popitem(last=False)
        loaded_models.changed()
        started = time.monotonic()
        try:
            await _finalize(model)
        except Exception:
            logger.exception("__del__ of model %r failed", model_id)
        finally:
            self._places -= 1
            self._place_changed.set()
        took_s = time.monotonic() - started
        _counts.unload_ms.add(1000 * took_s)
        logger.debug("unloaded model %r in %.3f s", model_id, took_s)


_all: WeakSet[_Models] = WeakSet()
_counts = ModelCounts(lambda: sorted({model_id for models in list(_all) for model_id in models.loaded_ids()}))


class _Loader:
    """The user's function, and the models of each instance."""

    def __init__(self, function: Callable[..., Any], capacity: int) -> None:
        self.function = function
        self.capacity = capacity
        self.name: str = getattr(function, "__qualname__", repr(function))
        parameters = list(inspect.signature(function).parameters)
        self.takes_self = bool(parameters) and (parameters[0] in ("self", "cls") or len(parameters) == 2)
        if len(parameters) != 1 + self.takes_self:
            raise ConfigTypeError(
                f"{self.name}: a function decorated with @serve.multiplexed takes the model's id and nothing else "
                f"(after self, if it is a method), not ({', '.join(parameters)})"
            )
        self._id_name = parameters[-1]
        self._models = PerInstance(lambda: _Models(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Loader, (self.function, self.capacity)

    async def get(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._id_name in kwargs and len(kwargs) == 1:
            args = (*args, kwargs[self._id_name])
            kwargs = {}
        if kwargs or len(args) != 1 + self.takes_self:
            raise TypeError(f"{self.name} takes the model's id and nothing else")
        model_id = args[-1]
        if not isinstance(model_id, str):
            raise ConfigTypeError(f"{self.name}: a model's id is a string, not {model_id!r}")
        if not model_id:
            raise ConfigError(
                f"{self.name}: the model's id is empty; the request names one by its serve_multiplexed_model_id header "
                "or by handle.options(multiplexed_model_id=...)"
            )
        instance = args[0] if self.takes_self else None
        return await self._models.of(instance).get(instance, model_id)

    async def load(self, instance: object | None, model_id: str) -> Any:
        args = (instance, model_id) if self.takes_self else (model_id,)
        if inspect.iscoroutinefunction(self.function):
            return await self.function(*args)
        model = await asyncio.to_thread(self.function, *args)
        return await model if inspect.isawaitable(model) else model


async def _finalize(model: Any) -> None:
    """Run the model's `__del__`, which may be `async`, now and for the last time."""
    finalizer = getattr(model, "__del__", None)
    if finalizer is None:
        return
    try:
        if inspect.iscoroutinefunction(finalizer):
            await finalizer()
        else:
            done = await asyncio.to_thread(finalizer)
            if inspect.isawaitable(done):
                await done
    finally:
        _disarm(model)


def _disarm(model: Any) -> None:
    """Python would run `__del__` again when the object is freed, and could not await it."""
    kind: type = type(model)
    try:
        model.__class__ = _without_finalizer(kind)
    except Exception:
        logger.debug("__del__ of %r may run once more", kind)


@functools.lru_cache(maxsize=64)
def _without_finalizer(kind: type) -> type:
    body = {"__slots__": (), "__del__": lambda self: None, "__module__": kind.__module__, "__doc__": kind.__doc__}
    twin = type(kind)(kind.__name__, (kind,), body)
    twin.__qualname__ = kind.__qualname__
    return twin


class MultiplexedDecorator(Protocol):
    """`@serve.multiplexed(...)`, ready to be put on a loader."""

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, M]], /) -> Callable[P, Coroutine[Any, Any, M]]: ...
    @overload
    def __call__(self, func: Callable[P, M], /) -> Callable[P, Coroutine[Any, Any, M]]: ...


@overload
def multiplexed(func: Callable[P, Coroutine[Any, Any, M]]) -> Callable[P, Coroutine[Any, Any, M]]: ...
@overload
def multiplexed(func: Callable[P, M]) -> Callable[P, Coroutine[Any, Any, M]]: ...
@overload
def multiplexed(func: None = None, max_num_models_per_replica: int = 3) -> MultiplexedDecorator: ...
def multiplexed(func: Callable[..., Any] | None = None, max_num_models_per_replica: int = 3) -> Any:
    """Keep the models that the decorated function loads, and call it for those only that are not there.

    The function takes a model's id (a `str`) and returns the model:

        @serve.deployment
        class Translator:
            @serve.multiplexed(max_num_models_per_replica=5)
            async def load(self, model_id: str) -> Model:
                return await fetch(model_id)

            async def __call__(self, text: str) -> str:
                model = await self.load(serve.get_multiplexed_model_id())
                return model(text)

    It may be a method or a function, `async def`, or `def`, which then runs in a worker thread. The decorated function
    is `async` in both cases. Requests that ask for a model while it is loaded wait for that one load; if it fails, all
    of them get its exception, and the next request tries again. Each instance has models of its own.

    Before a model is loaded for which there is no place, the one whose last use is longest ago is unloaded: its
    `__del__` is run, and awaited if it is `async`. A request that still works with that model keeps the object, so
    `max_num_models_per_replica` should be no less than the number of models that are in use at once.

    Args:
        max_num_models_per_replica: the most models that are loaded, being loaded or being unloaded at once, at
            least 1; -1 for no limit. Default 3.

    Raises:
        ConfigError: `max_num_models_per_replica` is 0 or below -1; (to callers) a model's id is empty.
        ConfigTypeError: it is no whole number; the function has other parameters; (to callers) an id is no string.
    """
    rule = "@serve.multiplexed: max_num_models_per_replica must be a whole number of at least 1, or -1 for no limit"
    if isinstance(max_num_models_per_replica, bool) or not isinstance(max_num_models_per_replica, int):
        raise ConfigTypeError(f"{rule}, not {max_num_models_per_replica!r}")
    if max_num_models_per_replica < 1 and max_num_models_per_replica != _UNLIMITED:
        raise ConfigError(f"{rule}, not {max_num_models_per_replica!r}")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function) or isinstance(function, type):
            raise ConfigTypeError(f"@serve.multiplexed decorates functions and methods, not {function!r}")
        loader = _Loader(function, max_num_models_per_replica)

        @functools.wraps(function)
        async def get(*args: Any, **kwargs: Any) -> Any:
            return await loader.get(args, kwargs)

        cast(Any, get).__headrace_multiplexed__ = True
        return get

    return decorate if func is None else decorate(func)


def get_multiplexed_model_id() -> str:
    """The id of the model that the current request asks for; "" if it names none, or outside of any request.

    In a batched function: the one that all requests of the batch ask for.
    """
    request = current()
    return "" if request is None else request.multiplexed_model_id
