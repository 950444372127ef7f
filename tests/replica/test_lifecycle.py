"""A replica's life, by control calls."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.config.spec import DrainRequest, ReconfigureRequest, ReplicaState
from headrace.replica.lifecycle import ConstructorError
from headrace.wire.errors import RpcError
from headrace.wire.rpc import RpcClient
from wire.conditions import turns, until
from wire.connected import SECRET

from .conftest import Serve
from .served import Replica
from .test_service import Model


class Reconfigured:
    def __init__(self) -> None:
        self.configs: list[Any] = []

    async def reconfigure(self, config: Any) -> None:
        if config == "refuse":
            raise ValueError("not this one")
        self.configs.append(config)

    async def __call__(self) -> Any:
        return self.configs


async def test_draining_waits_for_what_runs_and_admits_nothing_more(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    running = caller.call("__call__", 1)
    await until(lambda: replica.instance.running == 1)
    draining = asyncio.ensure_future(replica.lifecycle.drain(DrainRequest(wait_loop_s=0.1, timeout_s=20)))
    await turns()
    assert await caller.call("echo", 2).ended == "reject"
    assert not draining.done() and (await replica.lifecycle.state()).phase == "draining"
    replica.instance.gate.set()
    assert await running.value() == 1
    caller.connection.close()
    assert await draining is True
    assert caller.capacity == 0


async def test_draining_gives_up_after_its_time(serve: Serve) -> None:
    replica = await serve(Model)
    caller = await replica.caller()
    caller.call("__call__", 1)
    await until(lambda: replica.instance.running == 1)
    assert await replica.lifecycle.drain(DrainRequest(wait_loop_s=0.1, timeout_s=0.05)) is False


async def test_an_idle_replica_drains_at_once(serve: Serve) -> None:
    replica = await serve(Model)
    async with asyncio.timeout(10):
        assert await replica.lifecycle.drain(DrainRequest(wait_loop_s=10, timeout_s=100)) is True


async def test_limits_and_user_config_change_without_a_restart(serve: Serve) -> None:
    replica = await serve(Reconfigured, user_config={"a": 1})
    client = await RpcClient.connect(str(replica.path), SECRET)
    assert replica.instance.configs == [{"a": 1}]
    options = {**replica.given, "user_config": {"a": 2}, "max_ongoing_requests": 7}
    await client.call("reconfigure", ReconfigureRequest(options=options, user_config_changed=True))
    assert replica.instance.configs == [{"a": 1}, {"a": 2}] and replica.service.max_ongoing == 7
    await client.call("reconfigure", ReconfigureRequest(options={**options, "max_ongoing_requests": 8}))
    assert len(replica.instance.configs) == 2 and replica.service.max_ongoing == 8
    with pytest.raises(RpcError, match="not this one") as refused:
        refusing = ReconfigureRequest(options={**options, "user_config": "refuse"}, user_config_changed=True)
        await client.call("reconfigure", refusing)
    assert refused.value.kind == "ConstructorError"
    state = await client.call("state", type=ReplicaState)
    assert (state.phase, state.replica_id, state.version) == ("running", "Model-0", "1")
    client.close()


class Slow:
    release: asyncio.Event
    constructed = 0

    async def __init__(self) -> None:  # type: ignore[misc]
        Slow.constructed += 1
        await Slow.release.wait()

    async def __call__(self) -> str:
        return "here"


async def test_a_constructor_runs_once_though_it_is_asked_for_twice_and_the_first_to_ask_is_gone(
    folder: Path,
) -> None:
    Slow.release, Slow.constructed = asyncio.Event(), 0
    replica = Replica(folder, Slow, (), {})
    starting = asyncio.ensure_future(replica.start())
    await until(lambda: Slow.constructed)
    early = await replica.caller()
    assert await early.call().ended == "reject"
    first = await RpcClient.connect(str(replica.path), SECRET)
    asking = asyncio.ensure_future(first.call("initialize", replica.spec))
    await turns(10)
    first.connection.abort()
    await asyncio.gather(asking, return_exceptions=True)
    second = await RpcClient.connect(str(replica.path), SECRET)
    again = asyncio.ensure_future(second.call("initialize", replica.spec))
    Slow.release.set()
    await starting
    assert (await again)["replica_id"] == "Model-0"
    assert Slow.constructed == 1
    await until(lambda: early.capacity == 1)
    assert await early.call().value() == "here"
    second.close()
    await replica.stop()


class Broken:
    def __init__(self) -> None:
        raise ValueError("the weights are missing")


async def test_a_constructor_that_raises_is_told_with_its_traceback(folder: Path) -> None:
    replica = Replica(folder, Broken, (), {})
    with pytest.raises(ConstructorError, match="the weights are missing") as raised:
        await replica.start()
    assert "in __init__" in str(raised.value) and "replica/lifecycle.py" not in str(raised.value)
    state = await replica.lifecycle.state()
    assert state.phase == "failed" and "the weights are missing" in (state.error or "")
    caller = await replica.caller()
    assert await caller.call().ended == "reject"
    await replica.stop()


class Ends:
    events: list[str]

    def __del__(self) -> None:
        self.events.append("deleted")


async def test_user_code_is_let_go_though_another_part_fails_to_end(serve: Serve) -> None:
    Ends.events = []
    replica = await serve(Ends)

    class FailingLifespan:
        async def shutdown(self) -> None:
            raise RuntimeError("the application's lifespan failed to shut down")

    replica.lifecycle._lifespan = FailingLifespan()
    with pytest.raises(RuntimeError, match="lifespan"):
        await replica.lifecycle.close()
    assert Ends.events == ["deleted"]
