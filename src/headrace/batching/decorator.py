"""`@serve.batch`: a function of lists becomes one of single values, which is called once per request."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, overload

from headrace.batching import signatures as t
from headrace.batching.batched import as_function, batched
from headrace.batching.forming import Limits, SizeOf
from headrace.batching.state import (
    checked_batch_wait_timeout_s,
    checked_max_batch_size,
    checked_max_concurrent_batches,
)
from headrace.exceptions import ConfigTypeError

_OPTIONS = ("max_batch_size", "batch_wait_timeout_s", "max_concurrent_batches", "batch_size_fn")


@overload
def batch(_func: t.AsyncFunction[t.T, t.R], /) -> t.BatchedFunction[t.T, t.R]: ...
@overload
def batch(_func: t.AsyncMethod[t.S, t.T, t.R], /) -> t.BatchedMethod[t.S, t.T, t.R]: ...
@overload
def batch(_func: t.StreamFunction[t.T, t.R], /) -> t.BatchedStreamFunction[t.T, t.R]: ...
@overload
def batch(_func: t.StreamMethod[t.S, t.T, t.R], /) -> t.BatchedStreamMethod[t.S, t.T, t.R]: ...
@overload
def batch(_func: t.SyncFunction[t.T, t.R], /) -> t.BatchedFunction[t.T, t.R]: ...
@overload
def batch(_func: t.SyncMethod[t.S, t.T, t.R], /) -> t.BatchedMethod[t.S, t.T, t.R]: ...
@overload
def batch(_func: Callable[..., Any], /) -> Any: ...
@overload
def batch(
    _func: None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: SizeOf | None = None,
) -> t.BatchDecorator: ...
def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: SizeOf | None = None,
    **unknown: Any,
) -> Any:
    """Collect single requests and hand them to the decorated function as lists.

    The function takes a list of values and gives a list of results, of the same length and in the same order.
    Callers pass one value and get one result:

        @serve.deployment(max_ongoing_requests=64)
        class Sentiment:
            @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
            async def __call__(self, texts: list[str]) -> list[str]:
                return self.model(texts)

    The function may be

    - `async def`: runs on the event loop;
    - `def`: runs in a worker thread, so that it may block;
    - a generator, `async` or not: each `yield` is a list with one element per request, and each caller gets a stream.
      Where a request is finished before the others of its batch, yield the class `StopIteration` in its place.
      Streams are not slowed down by slow readers: elements that are not read yet are kept in memory.

    A batch starts at once when it is full. Otherwise it starts `batch_wait_timeout_s` after its oldest request came
    in, also counted while another batch ran. Requests for different multiplexed models never share a batch. If the
    function raises, the requests of that batch fail with its exception, and no others. A cancelled request leaves its
    batch; once nobody waits for a batch any more, it is cancelled too (except in a thread).

    `instance.method.set_max_batch_size(n)`, `.set_batch_wait_timeout_s(s)` and their getters work at any time.

    Args:
        max_batch_size: the most requests in one batch, at least 1. Default 10. A replica takes on only
            `max_ongoing_requests` requests at once, so that should be the larger number.
        batch_wait_timeout_s: for how many seconds a batch that is not full waits for more requests. Default 0.01.
        max_concurrent_batches: how many batches may run at once. Default 1.
        batch_size_fn: measures a list of values, where their number is not what fills a batch (tokens, pixels,
            graph nodes); `max_batch_size` then bounds this measure. With several parameters it is given the values
            of the first. A request that is too large alone fails with `BatchError`. Default None: counts.

    Raises:
        ConfigError: an option is out of its range.
        ConfigTypeError: an option has a wrong type or name, or what is decorated is not a function.
        BatchError: (to the callers) the function gave no list, or one of a wrong length.
    """
    if unknown:
        raise ConfigTypeError(_unknown_option(next(iter(unknown))))
    limits = Limits(
        checked_max_batch_size(max_batch_size),
        checked_batch_wait_timeout_s(batch_wait_timeout_s),
        checked_max_concurrent_batches(max_concurrent_batches),
    )
    if batch_size_fn is not None and not callable(batch_size_fn):
        raise ConfigTypeError(f"@serve.batch: batch_size_fn must be a function or None, not {batch_size_fn!r}")

    def decorate(function: Callable[..., Any]) -> Any:
        if not callable(function) or isinstance(function, type):
            raise ConfigTypeError(f"@serve.batch decorates functions and methods, not {function!r}")
        takes_self = _takes_self(function)
        made = batched(function, takes_self, limits.copy(), batch_size_fn)
        return made if takes_self or _in_class_body(function) else as_function(made)

    return decorate if _func is None else decorate(_func)


def _takes_self(function: Callable[..., Any]) -> bool:
    """Whether the first parameter is the instance, by the name that it has everywhere."""
    return next(iter(inspect.signature(function).parameters), None) in ("self", "cls")


def _in_class_body(function: Callable[..., Any]) -> bool:
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(around) and not around.endswith("<locals>")


def _unknown_option(name: str) -> str:
    # Imported here, for this module loads pydantic, and a batched function in a plain script needs none.
    from headrace.config.problems import nearest

    meant = nearest(name, _OPTIONS)
    return f"@serve.batch has no option '{name}'" + (
        f"; did you mean '{meant}'?" if meant else f"; it has {', '.join(_OPTIONS)}"
    )
