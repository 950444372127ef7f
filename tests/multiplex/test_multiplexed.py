"""`@serve.multiplexed`: which models are loaded when, and who waits for what."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings

import cloudpickle
import pytest

from headrace.exceptions import ConfigError
from headrace.multiplex import get_multiplexed_model_id, multiplexed
from headrace.router.context import RequestContext, request_context


class Model:
    def __init__(self, name: str) -> None:
        self.name = name


class Host:
    """Loads models, and stops in each load until `gate` opens. `alive` counts what is in memory or on its way."""

    def __init__(self, gate: bool = False) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.alive = 0
        self.most_alive = 0
        self.gate = asyncio.Event()
        self.fail_with: Exception | None = None
        if not gate:
            self.gate.set()

    async def make(self, model_id: str) -> Model:
        host = self

        class Closing(Model):
            async def __del__(self) -> None:
                await asyncio.sleep(0)
                host.unloads.append(self.name)
                host.alive -= 1

        self.loads.append(model_id)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        await self.gate.wait()
        if self.fail_with is not None:
            self.alive -= 1
            raise self.fail_with
        return Closing(model_id)

    @multiplexed(max_num_models_per_replica=2)
    async def two(self, model_id: str) -> Model:
        return await self.make(model_id)

    @multiplexed(max_num_models_per_replica=-1)
    async def any_number(self, model_id: str) -> Model:
        return await self.make(model_id)

    @multiplexed
    async def bare(self, model_id: str) -> Model:
        return await self.make(model_id)


async def test_a_model_is_loaded_once_and_found_again() -> None:
    host = Host()
    first = await host.two("a")
    assert await host.two("a") is first
    assert await host.two(model_id="a") is first
    assert host.loads == ["a"]


async def test_the_least_recently_used_model_is_unloaded_for_a_new_one() -> None:
    host = Host()
    for model_id in ("a", "b", "a", "c"):
        await host.two(model_id)
    assert host.loads == ["a", "b", "c"]
    assert host.unloads == ["b"]
    await host.two("a")
    assert host.loads == ["a", "b", "c"]


async def test_the_default_is_three_models() -> None:
    host = Host()
    for model_id in ("a", "b", "c", "d"):
        await host.bare(model_id)
    assert host.unloads == ["a"]


async def test_minus_one_is_no_limit() -> None:
    host = Host()
    await asyncio.gather(*(host.any_number(str(number)) for number in range(20)))
    assert host.most_alive == 20
    assert host.unloads == []


async def test_concurrent_requests_for_one_model_load_it_once() -> None:
    host = Host(gate=True)
    calls = [asyncio.create_task(host.two("a")) for _ in range(10)]
    await asyncio.sleep(0.01)
    host.gate.set()
    models = await asyncio.gather(*calls)
    assert host.loads == ["a"]
    assert len(set(map(id, models))) == 1


async def test_there_are_never_more_models_than_allowed_not_even_while_they_load_and_unload() -> None:
    host = Host()
    async with asyncio.timeout(5):
        models = await asyncio.gather(*(host.two(str(number % 7)) for number in range(50)))
    assert [model.name for model in models] == [str(number % 7) for number in range(50)]
    assert host.most_alive == 2


async def test_a_load_waits_for_a_place_while_all_are_taken_by_loads() -> None:
    host = Host(gate=True)
    calls = [asyncio.create_task(host.two(name)) for name in "abc"]
    await asyncio.sleep(0.01)
    assert host.loads == ["a", "b"]
    host.gate.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*calls)
    assert host.unloads == ["a"]


async def test_a_failed_load_is_raised_to_all_who_wait_and_tried_again_by_the_next() -> None:
    host = Host(gate=True)
    host.fail_with = ValueError("no such model")
    calls = [asyncio.create_task(host.two("a")) for _ in range(3)]
    await asyncio.sleep(0)
    host.gate.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(error) for error in errors] == ["no such model"] * 3
    assert len(set(map(id, errors))) == 3
    host.fail_with = None
    assert (await host.two("a")).name == "a"
    assert host.loads == ["a", "a"]


async def test_failed_loads_give_their_places_back() -> None:
    host = Host()
    host.fail_with = ValueError("no")
    await asyncio.gather(*(host.two(name) for name in "abcd"), return_exceptions=True)
    host.fail_with = None
    async with asyncio.timeout(5):
        await asyncio.gather(host.two("a"), host.two("b"))
    assert host.unloads == []


async def test_a_waiter_that_is_cancelled_does_not_cancel_the_load_for_the_others() -> None:
    host = Host(gate=True)
    calls = [asyncio.create_task(host.two("a")) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()  # the one that started it
    await asyncio.sleep(0)
    host.gate.set()
    assert calls[0].cancelled()
    assert await calls[1] is await calls[2]
    assert host.loads == ["a"]


async def test_del_is_run_once_whether_async_or_not() -> None:
    runs: list[str] = []

    class Sync(Model):
        def __del__(self) -> None:
            assert threading.current_thread() is not threading.main_thread(), "it may block"
            runs.append("sync")

    class Async(Model):
        async def __del__(self) -> None:
            runs.append("async")

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Model:
        return Sync(model_id) if model_id == "sync" else Async(model_id) if model_id == "async" else Model(model_id)

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "coroutine was never awaited"
        for model_id in ("sync", "async", "plain", "other"):
            await load(model_id)
        gc.collect()
    assert runs == ["sync", "async"]


async def test_a_del_that_raises_does_not_fail_the_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Model):
        async def __del__(self) -> None:
            raise RuntimeError("broken")

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Model:
        return Broken(model_id) if model_id == "a" else Model(model_id)

    await load("a")
    assert (await load("b")).name == "b"
    assert "__del__ of model 'a' failed" in caplog.text


async def test_a_sync_loader_runs_in_a_thread_and_is_awaited_all_the_same() -> None:
    class Blocking:
        may_go = threading.Event()

        @multiplexed
        def load(self, model_id: str) -> Model:
            assert self.may_go.wait(5)
            return Model(model_id)

    host = Blocking()
    loading = asyncio.create_task(host.load("a"))
    await asyncio.sleep(0)
    host.may_go.set()
    assert (await loading).name == "a"


async def test_each_instance_has_models_of_its_own() -> None:
    one, other = Host(), Host()
    await one.two("a")
    await other.two("a")
    assert one.loads == other.loads == ["a"]


async def test_a_loader_survives_pickling_without_its_models() -> None:
    calls: list[str] = []

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> str:
        return model_id.upper()

    await load("a")
    there = cloudpickle.loads(cloudpickle.dumps(load))
    assert await there("b") == "B"
    assert calls == []


def test_models_stay_when_a_new_event_loop_takes_over() -> None:
    host = asyncio.run(make_host())
    first = asyncio.run(host.any_number("a"))
    assert asyncio.run(host.any_number("a")) is first


async def make_host() -> Host:
    return Host()


@pytest.mark.parametrize(("model_id", "kind"), [(3, TypeError), (None, TypeError), ("", ValueError)])
async def test_a_wrong_model_id_is_refused(model_id: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"Host\.two: .*(string|empty)") as caught:
        await Host().two(model_id)
    assert isinstance(caught.value, ConfigError)


async def test_other_arguments_than_the_id_are_refused() -> None:
    with pytest.raises(TypeError, match="takes the model's id and nothing else"):
        await Host().two("a", "b")
    with pytest.raises(TypeError, match="takes the model's id and nothing else"):
        await Host().two("a", version=1)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (-2, ValueError), ("3", TypeError), (1.5, TypeError)])
def test_a_wrong_limit_is_named(value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="max_num_models_per_replica") as caught:
        multiplexed(max_num_models_per_replica=value)
    assert isinstance(caught.value, ConfigError)
    assert repr(value) in str(caught.value)


def test_only_functions_of_one_id_can_be_multiplexed() -> None:
    with pytest.raises(TypeError, match="decorates functions and methods"):
        multiplexed()("text")

    async def nothing() -> None: ...
    async def too_much(self: object, model_id: str, version: str) -> None: ...

    for function in (nothing, too_much):
        with pytest.raises(ConfigError, match=f"{function.__name__}: .*takes the model's id and nothing else"):
            multiplexed(function)


async def test_the_model_id_is_that_of_the_current_request_also_in_the_loader() -> None:
    assert get_multiplexed_model_id() == ""
    request_context.set(RequestContext("r", multiplexed_model_id="m1"))
    assert get_multiplexed_model_id() == "m1"

    @multiplexed
    async def load(model_id: str) -> str:
        return get_multiplexed_model_id()

    assert await load("m1") == "m1"
