"""Watchers get what changed, newest first come, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.spec import DeploymentTargets, WatchRequest, WatchUpdate
from headrace.controller.watch import WatchHub


def targets(name: str, limit: int = 5) -> DeploymentTargets:
    return DeploymentTargets(app="app", deployment=name, max_ongoing_requests=limit)


def unknown(key: str) -> DeploymentTargets:
    return DeploymentTargets(app="", deployment="", unavailable=f"no {key}")


def limit_of(update: WatchUpdate) -> int:
    return msgspec.msgpack.decode(update.value, type=DeploymentTargets).max_ongoing_requests


@pytest.fixture
def hub() -> WatchHub:
    made = WatchHub(unknown)
    made.open()
    return made


async def next_of(stream: AsyncIterator[WatchUpdate]) -> WatchUpdate:
    return await asyncio.wait_for(anext(stream), 5)


async def nothing_more(stream: AsyncIterator[WatchUpdate]) -> bool:
    pending = asyncio.ensure_future(anext(stream))
    done, _ = await asyncio.wait([pending], timeout=0.02)
    pending.cancel()
    return not done


async def test_a_watcher_gets_the_snapshot_and_then_each_change(hub: WatchHub) -> None:
    hub.set("a", targets("a", 1))
    stream = hub.watch(WatchRequest(versions={"a": 0}))
    first = await next_of(stream)
    hub.set("a", targets("a", 2))
    second = await next_of(stream)
    assert (limit_of(first), limit_of(second)) == (1, 2)
    assert second.version > first.version


async def test_a_watcher_that_has_the_version_is_sent_nothing(hub: WatchHub) -> None:
    hub.set("a", targets("a"))
    version = hub.snapshot("a").version
    assert await nothing_more(hub.watch(WatchRequest(versions={"a": version})))


async def test_a_version_of_an_earlier_controller_is_never_taken_for_current(hub: WatchHub) -> None:
    hub.set("a", targets("a"))
    later = WatchHub(unknown)
    later.set("a", targets("a"))
    assert later.snapshot("a").version > hub.snapshot("a").version


async def test_only_changed_keys_are_sent(hub: WatchHub) -> None:
    for key in ("a", "b"):
        hub.set(key, targets(key))
    stream = hub.watch(WatchRequest(versions={key: hub.snapshot(key).version for key in ("a", "b")}))
    assert not hub.set("a", targets("a"))
    hub.set("b", targets("b", 7))
    assert (await next_of(stream)).key == "b"
    assert await nothing_more(stream)


async def test_a_slow_watcher_gets_the_newest_and_not_all(hub: WatchHub) -> None:
    hub.set("a", targets("a", 1))
    stream = hub.watch(WatchRequest(versions={"a": 0}))
    await next_of(stream)
    for limit in range(2, 50):
        hub.set("a", targets("a", limit))
    assert limit_of(await next_of(stream)) == 49
    assert await nothing_more(stream)


async def test_an_unknown_key_is_unavailable_until_it_is_set_and_again_when_removed(hub: WatchHub) -> None:
    stream = hub.watch(WatchRequest(versions={"a": 0}))
    assert b"no a" in bytes((await next_of(stream)).value)
    hub.set("a", targets("a"))
    assert b"no a" not in bytes((await next_of(stream)).value)
    hub.remove("a")
    assert b"no a" in bytes((await next_of(stream)).value)


async def test_nothing_is_told_before_the_hub_is_open() -> None:
    hub = WatchHub(unknown)
    stream = hub.watch(WatchRequest(versions={"a": 0}))
    pending = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    assert not pending.done()
    hub.set("a", targets("a", 3))
    hub.open()
    assert limit_of(await pending) == 3


async def test_what_nobody_watches_and_nothing_stands_for_is_forgotten(hub: WatchHub) -> None:
    stream = hub.watch(WatchRequest(versions={"a": 0, "b": 0}))
    await next_of(stream)
    hub.set("b", targets("b"))
    await stream.aclose()  # type: ignore[attr-defined]
    assert set(hub._snapshots) == {"b"} and hub._watchers == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.booleans()), max_size=40))
def test_whoever_reads_to_the_end_knows_the_latest(changes: list[tuple[str, int, bool]]) -> None:
    async def scenario() -> None:
        hub = WatchHub(unknown)
        hub.open()
        known: dict[str, bytes] = {}
        stream = hub.watch(WatchRequest(versions={"a": 0, "b": 0}))

        async def read() -> None:
            async for update in stream:
                known[update.key] = bytes(update.value)

        reader = asyncio.ensure_future(read())
        for key, limit, pause in changes:
            hub.set(key, targets(key, limit))
            if pause:
                await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert known == {key: bytes(hub.snapshot(key).value) for key in ("a", "b")}
        reader.cancel()

    asyncio.run(scenario())
