"""The callables that `@serve.batch` leaves in place of the user's: a method descriptor, or a plain function.

All of them pass for `async def` functions with `inspect`, whatever the user's function is: callers await one answer,
or iterate over one stream. `__wrapped__` is the user's function, so that signatures show its `list[...]` parameters.
"""

from __future__ import annotations

import asyncio
import functools
import types
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from headrace.batching.calls import StreamCall
from headrace.batching.forming import Limits, SizeOf
from headrace.batching.per_instance import PerInstance
from headrace.batching.state import BatchControls, BatchState
from headrace.batching.target import Target


class _OneRequest(BatchControls):
    """Something that is called with one request. The attributes are what `inspect` tells a function's kind by."""

    __slots__ = ()
    __defaults__ = None
    __kwdefaults__ = None
    __headrace_batched__ = True

    @property
    def __code__(self) -> types.CodeType:
        return cast(types.CodeType, cast(Any, type(self)).__call__.__code__)

    @abstractmethod
    def _place(self, args: tuple[Any, ...]) -> tuple[BatchState, object | None, tuple[Any, ...]]:
        """Whose batches, for which instance, with which of the arguments."""


class _Answered(_OneRequest):
    __slots__ = ()

    async def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        state, instance, args = self._place(args)
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


class _Streamed(_OneRequest):
    __slots__ = ()

    async def __call__(self, /, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        state, instance, args = self._place(args)
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


class BoundBatch(_OneRequest):
    """`instance.method` of a batched method; its setters are about this instance."""

    __slots__ = ("__self__", "_batched", "_state")

    def __init__(self, batched: Batched, state: BatchState, instance: object) -> None:
        self._batched = batched
        self._state = state
        self.__self__ = instance

    @property
    def __wrapped__(self) -> types.MethodType:
        return types.MethodType(self._batched.__wrapped__, self.__self__)

    def __getattr__(self, name: str) -> Any:
        # __name__, __module__ and whatever else decorators have put on the method.
        return getattr(self._batched, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundBatch) and other.__self__ is self.__self__ and other._batched is self._batched

    def __hash__(self) -> int:
        return hash((id(self.__self__), id(self._batched)))

    def __repr__(self) -> str:
        return f"<batched method {self._batched.__qualname__} of {self.__self__!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.__self__, self._batched.__name__)

    def _states(self) -> list[BatchState]:
        return [self._state]

    def _place(self, args: tuple[Any, ...]) -> tuple[BatchState, object | None, tuple[Any, ...]]:
        return self._state, self.__self__, args


def _docstring_of_users(bound: BoundBatch) -> str | None:
    return bound._batched.__doc__


class _BoundAnswered(_Answered, BoundBatch):
    __slots__ = ()
    __doc__ = cast(str, property(_docstring_of_users))


class _BoundStreamed(_Streamed, BoundBatch):
    __slots__ = ()
    __doc__ = cast(str, property(_docstring_of_users))


class Batched(_OneRequest):
    """A batched function, and as a class attribute, a batched method. `batched` makes one.

    Args:
        target: the user's function.
        limits: what holds until a setter is called.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __init__(self, target: Target, limits: Limits) -> None:
        self._target = target
        self._state = BatchState(target, limits)
        self._of_instances = PerInstance(lambda: BatchState(self._target, self._state.limits.copy()))
        functools.update_wrapper(cast(Any, self), target.function)

    def __set_name__(self, owner: type, name: str) -> None:
        # In a class body, whatever the first parameter is called, it is the instance. (`staticmethod` hides this.)
        if not self._target.takes_self:
            self._target = Target(self._target.function, True, self._target.batch_size_fn)

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = _BoundStreamed if self._target.kind.streams else _BoundAnswered
        return bound(self, self._of_instances.of(instance), instance)

    def __repr__(self) -> str:
        return f"<batched function {self._target.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        target = self._target
        return batched, (target.function, target.takes_self, self._state.limits, target.batch_size_fn)

    def _states(self) -> list[BatchState]:
        return [self._state, *self._of_instances.all()]

    def _place(self, args: tuple[Any, ...]) -> tuple[BatchState, object | None, tuple[Any, ...]]:
        if self._target.takes_self and args:
            return self._of_instances.of(args[0]), args[0], args[1:]
        return self._state, None, args


class _BatchedAnswered(_Answered, Batched):
    pass


class _BatchedStreamed(_Streamed, Batched):
    pass


def batched(function: Callable[..., Any], takes_self: bool, limits: Limits, batch_size_fn: SizeOf | None) -> Batched:
    """The batched form of the user's function.

    Args:
        function: takes lists.
        takes_self: whether its first parameter is the instance.
        limits: what holds until a setter is called.
        batch_size_fn: measures a list of items; None to count them.
    """
    target = Target(function, takes_self, batch_size_fn)
    return (_BatchedStreamed if target.kind.streams else _BatchedAnswered)(target, limits)


def as_function(batch: Batched) -> Callable[..., Any]:
    """A plain function in front of `batch`, which passes for one, and pickles like one, everywhere."""
    call = cast(Any, batch)

    async def answer(*args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(call(*args, **kwargs)) as elements:
            async for element in elements:
                yield element

    function = cast(Any, stream if isinstance(batch, _Streamed) else answer)
    functools.update_wrapper(function, batch.__wrapped__)
    for name in dir(BatchControls):
        if name.startswith(("set_", "get_", "_get_", "is_")):
            setattr(function, name, getattr(batch, name))
    function.__headrace_batched__ = True
    return cast(Callable[..., Any], function)
