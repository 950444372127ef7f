"""The user's function behind a batched one: its kind, its parameters, and how a batch calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Any, cast

from headrace.batching.forming import SizeOf
from headrace.exceptions import BatchError, ConfigTypeError


class Kind(Enum):
    """How a batch is run: awaited, called in a worker thread, iterated, or iterated in a worker thread."""

    COROUTINE = "async def"
    SYNC = "def"
    ASYNC_GENERATOR = "async def with yield"
    SYNC_GENERATOR = "def with yield"

    @property
    def streams(self) -> bool:
        return self in (Kind.ASYNC_GENERATOR, Kind.SYNC_GENERATOR)

    @property
    def in_thread(self) -> bool:
        return self in (Kind.SYNC, Kind.SYNC_GENERATOR)


Shape = tuple[int, tuple[str, ...]] | None
"""How a request gave its arguments: how many by position, which by name. None: its one argument is the item."""


class Target:
    """A function that takes lists, described once so that calls are cheap.

    Args:
        function: the user's function; its parameters (after `self`) each take a list with one value per request.
        takes_self: whether the first parameter is the instance.
        batch_size_fn: measures a list of items, None to count them.

    Attributes:
        size_of: measures a list of what `item_and_shape` makes of requests.

    Raises:
        ConfigTypeError: the function has no parameter for the batch.
    """

    def __init__(self, function: Callable[..., Any], takes_self: bool, batch_size_fn: SizeOf | None) -> None:
        self.function = function
        self.takes_self = takes_self
        self.name: str = getattr(function, "__qualname__", repr(function))
        self.kind = _kind_of(function)
        parameters = list(inspect.signature(function).parameters.values())[1 if takes_self else 0 :]
        if not parameters:
            raise ConfigTypeError(f"{self.name} needs a parameter for the batch, such as `items: list[str]`")
        self.signature = inspect.Signature(parameters)
        self.only_parameter = parameters[0].name if _is_single(parameters) else None
        self.batch_size_fn = batch_size_fn
        self.size_of = batch_size_fn
        if batch_size_fn is not None and self.only_parameter is None:
            self.size_of = _of_first_argument(batch_size_fn)

    def item_and_shape(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Shape]:
        """What a request puts into its batch. Requests of one shape can share a batch.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        if self.only_parameter is not None and len(args) == 1 and not kwargs:
            return args[0], None
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        if self.only_parameter is not None:
            return bound.arguments[self.only_parameter], None
        return (bound.args, bound.kwargs), (len(bound.args), tuple(sorted(bound.kwargs)))

    def lists(self, items: list[Any], shape: Shape) -> tuple[tuple[list[Any], ...], dict[str, list[Any]]]:
        """The arguments for a batch of these items: one list for each parameter that the requests gave."""
        if shape is None:
            return (items,), {}
        count, names = shape
        by_position = tuple([args[index] for args, _ in items] for index in range(count))
        return by_position, {name: [kwargs[name] for _, kwargs in items] for name in names}

    def check(self, results: Any, count: int) -> Sequence[Any]:
        """`results`, if it is a list of `count` values.

        Raises:
            BatchError: it is not.
        """
        verb = "yielded" if self.kind.streams else "returned"
        rule = "a batched function must give one result per request, in the requests' order"
        if not isinstance(results, list | tuple) and not _is_list_like(results):
            hint = "; is a `return` missing?" if results is None else ""
            raise BatchError(
                f"{self.name} {verb} {_described(results)} for a batch of {count}, expected a list of length {count}: "
                f"{rule}{hint}"
            )
        if len(results) != count:
            raise BatchError(
                f"{self.name} {verb} a list of length {len(results)} for a batch of {count}, "
                f"expected length {count}: {rule}"
            )
        return cast(Sequence[Any], results)


def key_of(model_id: str, shape: Shape) -> Hashable:
    """What requests must have in common to share a batch."""
    return model_id if shape is None else (model_id, shape)


def shape_in(key: Hashable) -> Shape:
    return key[1] if isinstance(key, tuple) else None


def _kind_of(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return Kind.SYNC_GENERATOR
    return Kind.COROUTINE if inspect.iscoroutinefunction(function) else Kind.SYNC


def _is_single(parameters: list[inspect.Parameter]) -> bool:
    return len(parameters) == 1 and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )


def _of_first_argument(batch_size_fn: SizeOf) -> SizeOf:
    """`batch_size_fn` measures the first parameter's list where a function takes several."""

    def size(items: list[Any]) -> float:
        return batch_size_fn([args[0] if args else next(iter(kwargs.values())) for args, kwargs in items])

    return size


def _is_list_like(value: Any) -> bool:
    """Sequences that are no text, and arrays, tensors and series of at least one dimension."""
    if isinstance(value, Sequence):
        return not isinstance(value, str | bytes | bytearray | memoryview)
    # A DataFrame has a length too, but iterates over its columns; it is told by having no `tolist`.
    return hasattr(value, "tolist") and hasattr(value, "__iter__") and getattr(value, "ndim", 0) >= 1


def _described(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__qualname__
    try:
        return f"a {kind} of length {len(value)}"
    except TypeError:
        return f"a {kind}"
