"""How a replica learns which models it holds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from headrace.multiplex import multiplexed
from headrace.router import loaded_models


class Host:
    def __init__(self) -> None:
        self.unloads: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> object:
        await self.gate.wait()
        if model_id == "broken":
            raise ValueError(model_id)
        unloads = self.unloads

        class Model:
            def __del__(self) -> None:
                unloads.append(model_id)

        return Model()


@pytest.fixture
def heard() -> Iterator[list[list[str]]]:
    gc.collect()
    told: list[list[str]] = []
    loaded_models.set_models_listener(told.append)
    yield told
    loaded_models.set_models_listener(None)


async def test_the_listener_hears_of_a_model_before_it_is_loaded(heard: list[list[str]]) -> None:
    host = Host()
    host.gate.clear()
    loading = asyncio.create_task(host.load("a"))
    await asyncio.sleep(0)
    assert heard == [["a"]]
    host.gate.set()
    await loading
    assert loaded_models.loaded_model_ids() == ["a"]


async def test_the_listener_hears_of_failed_loads_and_unloaded_models(heard: list[list[str]]) -> None:
    host = Host()
    with pytest.raises(ValueError):
        await host.load("broken")
    assert heard[-1] == []
    for model_id in ("a", "b", "c"):
        await host.load(model_id)
    assert heard[-1] == ["b", "c"]
    assert all(len(set(ids)) == len(ids) for ids in heard)


async def test_a_listener_that_raises_does_not_fail_the_load(caplog: pytest.LogCaptureFixture) -> None:
    def broken(ids: list[str]) -> None:
        raise RuntimeError("cannot tell")

    loaded_models.set_models_listener(broken)
    try:
        assert await Host().load("a") is not None
    finally:
        loaded_models.set_models_listener(None)
    assert "cannot tell" in caplog.text


async def test_all_models_can_be_unloaded_at_the_end(heard: list[list[str]]) -> None:
    host, other = Host(), Host()
    await asyncio.gather(host.load("a"), host.load("b"), other.load("a"))
    await loaded_models.unload_all()
    assert sorted(host.unloads) == ["a", "b"]
    assert other.unloads == ["a"]
    assert heard[-1] == loaded_models.loaded_model_ids() == []
