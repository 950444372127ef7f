"""Finding, classifying and ending the user's code."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import headrace as serve
from headrace.exceptions import HeadraceError
from headrace.replica.sync_worker import SyncWorker
from headrace.replica.user_code import MethodKind, UserCode, kind_of


def sync(x: int = 0) -> int:
    return x


async def coroutine(x: int = 0) -> int:
    return x


def generator(x: int = 0) -> Iterator[int]:
    yield x


async def async_generator(x: int = 0) -> AsyncIterator[int]:
    yield x


class Callable_:
    def __init__(self, function: Any) -> None:
        type(self).__call__ = function  # type: ignore[method-assign,assignment]


class SyncObject:
    def __call__(self) -> None: ...


class AsyncObject:
    async def __call__(self) -> None: ...


class AsyncGeneratorObject:
    async def __call__(self) -> AsyncIterator[int]:
        yield 1


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Methods:
    def plain(self) -> None: ...
    async def asynchronous(self) -> None: ...
    def generates(self) -> Iterator[int]:
        yield 1

    async def generates_asynchronously(self) -> AsyncIterator[int]:
        yield 1

    @classmethod
    async def of_the_class(cls) -> None: ...
    @staticmethod
    def static() -> Iterator[int]:
        yield 1

    partial = functools.partialmethod(coroutine)
    holds_an_object = AsyncObject()
    holds_a_partial = functools.partial(async_generator, 3)

    @serve.batch(max_batch_size=2)
    async def batched(self, xs: list[int]) -> list[int]:
        return xs

    @serve.batch(max_batch_size=2)
    async def batched_generator(self, xs: list[int]) -> AsyncIterator[list[int]]:
        yield xs


ASYNC, SYNC = MethodKind.ASYNC, MethodKind.SYNC
ASYNC_GENERATOR, SYNC_GENERATOR = MethodKind.ASYNC_GENERATOR, MethodKind.SYNC_GENERATOR

KINDS: list[tuple[Any, MethodKind]] = [
    (sync, SYNC),
    (coroutine, ASYNC),
    (generator, SYNC_GENERATOR),
    (async_generator, ASYNC_GENERATOR),
    (functools.partial(coroutine, 1), ASYNC),
    (functools.partial(functools.partial(generator), 1), SYNC_GENERATOR),
    (functools.partial(AsyncObject()), ASYNC),
    (SyncObject(), SYNC),
    (AsyncObject(), ASYNC),
    (AsyncGeneratorObject(), ASYNC_GENERATOR),
    (len, SYNC),
    ([].append, SYNC),
    (dict, SYNC),
    (wrapping(coroutine), SYNC),  # found to be async only by what it returns
    (Methods().plain, SYNC),
    (Methods().asynchronous, ASYNC),
    (Methods().generates, SYNC_GENERATOR),
    (Methods().generates_asynchronously, ASYNC_GENERATOR),
    (Methods().of_the_class, ASYNC),
    (Methods().static, SYNC_GENERATOR),
    (Methods().partial, ASYNC),
    (Methods().holds_an_object, ASYNC),
    (Methods().holds_a_partial, ASYNC_GENERATOR),
    (Methods().batched, ASYNC),
    (Methods().batched_generator, ASYNC_GENERATOR),
]


@pytest.mark.parametrize(("function", "kind"), KINDS, ids=[f"{i}" for i in range(len(KINDS))])
def test_what_kind_a_function_is(function: Any, kind: MethodKind) -> None:
    assert kind_of(function) is kind


@pytest.fixture
async def worker() -> AsyncIterator[SyncWorker]:
    made = SyncWorker(asyncio.get_running_loop(), 1)
    yield made
    made.close()


async def made(worker: SyncWorker, target: Any, *args: Any, **kwargs: Any) -> UserCode:
    code = UserCode(target, args, kwargs, worker)
    await code.construct()
    return code


async def test_a_class_is_constructed_with_its_arguments_and_its_methods_are_found(worker: SyncWorker) -> None:
    class Model:
        def __init__(self, a: int, *, b: int) -> None:
            self.sum = a + b

        def get(self) -> int:
            return self.sum

        def _private(self) -> None: ...

    code = await made(worker, Model, 1, b=2)
    assert code.method("get").function() == 3
    assert code.method("get") is code.method("get")
    assert code.method_names() == ["get"]
    with pytest.raises(AttributeError, match=r"Model has no method 'got'; it has: get"):
        code.method("got")
    for hidden in ("__init__", "__class__", "__reduce__", "sum"):
        with pytest.raises(AttributeError):
            code.method(hidden)


async def test_a_function_is_called_itself(worker: SyncWorker) -> None:
    code = await made(worker, sync)
    assert code.method("__call__").function(5) == 5
    assert code.method_names() == ["__call__"]
    with pytest.raises(AttributeError, match="no method 'predict'; call it itself"):
        code.method("predict")


async def test_retryable_methods_are_told(worker: SyncWorker) -> None:
    class Model:
        @serve.retryable
        async def get(self) -> None: ...

        async def put(self) -> None: ...

    assert (await made(worker, Model)).retryable_methods() == ["get"]


async def test_hooks_may_be_sync_or_async_and_a_missing_one_is_named(worker: SyncWorker) -> None:
    configs: list[Any] = []

    class Sync:
        def reconfigure(self, config: Any) -> None:
            configs.append(("sync", config))

        def check_health(self) -> None:
            raise RuntimeError("not well")

    class Async:
        async def reconfigure(self, config: Any) -> None:
            configs.append(("async", config))

    for target in (Sync, Async):
        code = await made(worker, target)
        await code.reconfigure({"a": 1})
    assert configs == [("sync", {"a": 1}), ("async", {"a": 1})]
    await code.check_health()  # it has none
    with pytest.raises(RuntimeError, match="not well"):
        await (await made(worker, Sync)).check_health()
    with pytest.raises(HeadraceError, match="no method reconfigure"):
        await (await made(worker, Methods)).reconfigure({})


async def test_a_health_check_does_not_wait_for_a_long_request(worker: SyncWorker) -> None:
    import threading

    release = threading.Event()

    class Busy:
        def work(self) -> None:
            release.wait()

        def check_health(self) -> None: ...

    code = await made(worker, Busy)
    working = asyncio.ensure_future(worker.run(code.method("work").function))
    async with asyncio.timeout(10):
        await code.check_health()
    assert not working.done()
    release.set()
    await working


class Ends:
    ended: list[str]

    def __init__(self, name: str = "") -> None:
        self.name = name


@pytest.fixture
def ended() -> list[str]:
    Ends.ended = []
    return Ends.ended


class EndsSync(Ends):
    def __del__(self) -> None:
        self.ended.append(f"sync {self.name}")


class EndsAsync(Ends):
    async def __del__(self) -> None:
        await asyncio.sleep(0)
        self.ended.append(f"async {self.name}")


class EndsBadly(Ends):
    def __del__(self) -> None:
        self.ended.append(f"badly {self.name}")
        raise ValueError("cannot let go")


class EndsWithSlots:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        Ends.ended.append(f"slots {self.name}")


@pytest.mark.parametrize("target", [EndsSync, EndsAsync, EndsWithSlots])
async def test_a_finalizer_runs_once_and_only_that_of_the_instance(
    target: Any, worker: SyncWorker, ended: list[str]
) -> None:
    """Several instances of one class live side by side in local testing."""
    first, second = await made(worker, target, "first"), await made(worker, target, "second")
    await first.close()
    await first.close()
    kind = target.__name__.removeprefix("Ends").removeprefix("With").lower()
    assert ended == [f"{kind} first"]
    await second.close()
    del first, second
    assert ended == [f"{kind} first", f"{kind} second"]


async def test_a_finalizer_that_raises_runs_once_too(worker: SyncWorker, ended: list[str]) -> None:
    code = await made(worker, EndsBadly, "once")
    with pytest.raises(ValueError, match="cannot let go"):
        await code.close()
    del code
    assert ended == ["badly once"]


async def test_an_async_constructor_is_awaited(worker: SyncWorker) -> None:
    class Model:
        async def __init__(self, x: int) -> None:  # type: ignore[misc]
            await asyncio.sleep(0)
            self.x = x

    assert (await made(worker, Model, 4)).instance.x == 4
