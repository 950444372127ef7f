"""What type checkers see of `@serve.batch`: `async def f(self, xs: list[T]) -> list[R]` is called as `f(x: T) -> R`.

Protocols only. The objects at run time are those of `batched`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar, overload

from headrace.batching.state import IterationStartTimes

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
S_contra = TypeVar("S_contra", contravariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

AsyncFunction = Callable[[list[T]], Coroutine[Any, Any, Sequence[R]]]
AsyncMethod = Callable[[S, list[T]], Coroutine[Any, Any, Sequence[R]]]
SyncFunction = Callable[[list[T]], Sequence[R]]
SyncMethod = Callable[[S, list[T]], Sequence[R]]
StreamFunction = Callable[[list[T]], AsyncIterator[Sequence[R]]] | Callable[[list[T]], Iterator[Sequence[R]]]
StreamMethod = Callable[[S, list[T]], AsyncIterator[Sequence[R]]] | Callable[[S, list[T]], Iterator[Sequence[R]]]


class Controls(Protocol):
    """Setters and getters: `headrace.batching.state.BatchControls`."""

    def set_max_batch_size(self, new_max_batch_size: int) -> None: ...
    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None: ...
    def get_max_batch_size(self) -> int: ...
    def get_batch_wait_timeout_s(self) -> float: ...
    def get_max_concurrent_batches(self) -> int: ...
    def get_curr_iteration_start_times(self) -> IterationStartTimes: ...
    def is_running(self) -> bool: ...


class BatchedFunction(Controls, Protocol[T_contra, R_co]):
    """A batched function, or a batched method of an instance."""

    def __call__(self, item: T_contra, /) -> Coroutine[Any, Any, R_co]: ...


class BatchedMethod(Controls, Protocol[S_contra, T_contra, R_co]):
    """A batched method as the class has it."""

    def __call__(self, instance: S_contra, item: T_contra, /) -> Coroutine[Any, Any, R_co]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> BatchedMethod[S_contra, T_contra, R_co]: ...
    @overload
    def __get__(self, instance: S_contra, owner: type | None = None, /) -> BatchedFunction[T_contra, R_co]: ...


class BatchedStreamFunction(Controls, Protocol[T_contra, R_co]):
    """A batched generator function, or a batched generator method of an instance."""

    def __call__(self, item: T_contra, /) -> AsyncGenerator[R_co, None]: ...


class BatchedStreamMethod(Controls, Protocol[S_contra, T_contra, R_co]):
    """A batched generator method as the class has it."""

    def __call__(self, instance: S_contra, item: T_contra, /) -> AsyncGenerator[R_co, None]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> BatchedStreamMethod[S_contra, T_contra, R_co]: ...
    @overload
    def __get__(self, instance: S_contra, owner: type | None = None, /) -> BatchedStreamFunction[T_contra, R_co]: ...


class BatchDecorator(Protocol):
    """`@serve.batch(...)`, ready to be put on a function."""

    @overload
    def __call__(self, function: AsyncFunction[T, R], /) -> BatchedFunction[T, R]: ...
    @overload
    def __call__(self, function: AsyncMethod[S, T, R], /) -> BatchedMethod[S, T, R]: ...
    @overload
    def __call__(self, function: StreamFunction[T, R], /) -> BatchedStreamFunction[T, R]: ...
    @overload
    def __call__(self, function: StreamMethod[S, T, R], /) -> BatchedStreamMethod[S, T, R]: ...
    @overload
    def __call__(self, function: SyncFunction[T, R], /) -> BatchedFunction[T, R]: ...
    @overload
    def __call__(self, function: SyncMethod[S, T, R], /) -> BatchedMethod[S, T, R]: ...
    @overload
    def __call__(self, function: Callable[..., Any], /) -> Any: ...
