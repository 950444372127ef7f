"""The callables that `@serve.batch` leaves in place of the user's: a method descriptor, or a plain function.

All of them look like `async def` functions to `inspect`, whatever the user's function is: callers await one answer,
or iterate over one stream. `__wrapped__` is the user's function, so that signatures show its `list[...]` parameters.
"""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from headrace.batching.calls import StreamCall
from headrace.batching.forming import Limits, SizeOf
from headrace.batching.per_instance import PerInstance
from headrace.batching.state import BatchControls, BatchState
from headrace.batching.target import Target


async def _answer(state: BatchState, instance: object | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    batcher = state.batcher()
    call = batcher.submit(instance, args, kwargs)
    try:
        return await call.future
    except asyncio.CancelledError:
        batcher.abandon(call)
        raise
    finally:
        # An exception holds its traceback, that this frame, and this the future with the exception: no circle.
        del call


async def _stream(
    state: BatchState, instance: object | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    batcher = state.batcher()
    call = cast(StreamCall, batcher.submit(instance, args, kwargs))
    try:
        while True:
            while call.elements:
                yield call.elements.popleft()
            if call.error is not None:
                raise call.error
            if call.ended:
                return
            await call.readable()
    finally:
        if not call.ended:
            call.ended = True
            batcher.abandon(call)


class _LooksAsync:
    """What `inspect` reads off a function to tell its kind."""

    __slots__ = ()
    __defaults__ = None
    __kwdefaults__ = None
    __headrace_batched__ = True

    _target: Target

    @property
    def __code__(self) -> types.CodeType:
        return (_stream if self._target.kind.streams else _answer).__code__


class BoundBatch(_LooksAsync, BatchControls):
    # `instance.method` of a batched method. It takes one request; its setters are about this instance. No docstring,
    # for `__doc__` is that of the user's function.

    __slots__ = ("__self__", "_call", "_state", "_target")

    def __init__(self, target: Target, state: BatchState, instance: object) -> None:
        self._target = target
        self._state = state
        self._call = _stream if target.kind.streams else _answer
        self.__self__ = instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._state, self.__self__, args, kwargs)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._target.function.__doc__

    @property
    def __wrapped__(self) -> types.MethodType:
        return types.MethodType(self._target.function, self.__self__)

    @property
    def __func__(self) -> Callable[..., Any]:
        return self._target.function

    def __getattr__(self, name: str) -> Any:
        # __name__, __doc__, __module__ and whatever else the user's function carries.
        return getattr(self._target.function, name)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, BoundBatch) and other.__self__ is self.__self__
        return same and cast(BoundBatch, other)._target is self._target

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self._target)))

    def __repr__(self) -> str:
        return f"<batched method {self._target.name} of {self.__self__!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self._target.function.__name__)

    def _states(self) -> list[BatchState]:
        return [self._state]


class Batched(_LooksAsync, BatchControls):
    """A batched function, and as a class attribute, a batched method.

    Args:
        function: the user's function.
        takes_self: whether its first parameter is the instance.
        limits: what holds until a setter is called.
        size_of: `batch_size_fn`.
    """

    def __init__(self, function: Callable[..., Any], takes_self: bool, limits: Limits, size_of: SizeOf | None) -> None:
        self._given = (function, takes_self, limits, size_of)
        self._target = Target(function, takes_self, size_of)
        self._state = BatchState(self._target, limits)
        self._of_instances = PerInstance(lambda: BatchState(self._target, self._state.limits.copy()))
        functools.update_wrapper(cast(Any, self), function)

    def __set_name__(self, owner: type, name: str) -> None:
        # In a class body, whatever the first parameter is called, it is the instance. (`staticmethod` hides this.)
        if not self._target.takes_self:
            function, _, limits, size_of = self._given
            self.__init__(function, True, limits, size_of)  # type: ignore[misc]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = _stream if self._target.kind.streams else _answer
        if self._target.takes_self and args:
            return call(self._of_instances.of(args[0]), args[0], args[1:], kwargs)
        return call(self._state, None, args, kwargs)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return BoundBatch(self._target, self._of_instances.of(instance), instance)

    def __repr__(self) -> str:
        return f"<batched function {self._target.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        function, takes_self, _, size_of = self._given
        return Batched, (function, takes_self, self._state.limits, size_of)

    def _states(self) -> list[BatchState]:
        return [self._state, *self._of_instances.all()]


def as_function(batched: Batched) -> Callable[..., Any]:
    """A plain function in front of `batched`, which pickles, and passes for one, everywhere."""

    async def answer(*args: Any, **kwargs: Any) -> Any:
        return await batched(*args, **kwargs)

    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(batched(*args, **kwargs)) as elements:
            async for element in elements:
                yield element

    function = cast(Any, stream if batched._target.kind.streams else answer)
    functools.update_wrapper(function, batched._target.function)
    for name in dir(BatchControls):
        if name.startswith(("set_", "get_", "_get_", "is_")):
            setattr(function, name, getattr(batched, name))
    function.__headrace_batched__ = True
    return cast(Callable[..., Any], function)
