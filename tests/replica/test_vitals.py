"""Vitals answer whatever user code does to the event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path

import msgspec
import pytest
import uvloop

from headrace.config.spec import ReplicaVitals
from headrace.observe.exposition import Family
from headrace.observe.stacks import ProcessStacks
from headrace.replica.vitals import LoopProbe, serve_vitals
from headrace.wire.rpc import RpcClient
from wire.conditions import until
from wire.connected import SECRET


async def no_metrics(prefix: str) -> list[Family]:
    return []


class Blocked:
    """An event loop in a thread, that user code blocks with `time.sleep`."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def block(self, seconds: float) -> None:
        self.loop.call_soon_threadsafe(time.sleep, seconds)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def test_vitals_are_told_while_the_loop_is_blocked_and_tell_for_how_long(folder: Path) -> None:
    replica = Blocked()
    path = folder / "replica.vitals"
    ongoing = 0
    serve_vitals(path, SECRET, "r", LoopProbe(replica.loop), lambda: "running", lambda: ongoing, no_metrics)
    client = await RpcClient.connect(str(path), SECRET)

    async def vitals() -> ReplicaVitals:
        answer: ReplicaVitals = await client.call("vitals", type=ReplicaVitals, timeout_s=5)
        return answer

    first = await vitals()
    assert (first.replica_id, first.phase, first.loop_blocked_s, first.ongoing) == ("r", "running", 0.0, 0)
    replica.block(2.0)
    ongoing = 3
    blocked = await vitals()
    assert blocked.loop_blocked_s > 0.3 and blocked.ongoing == 3
    assert (await vitals()).loop_blocked_s > blocked.loop_blocked_s
    async with asyncio.timeout(20):
        while (await vitals()).loop_blocked_s:
            pass
    client.close()
    replica.stop()


async def test_they_are_told_though_what_watches_the_loop_has_failed(folder: Path) -> None:
    replica = Blocked()
    path = folder / "replica.vitals"
    failed = threading.Event()

    async def watch() -> None:
        failed.set()
        raise RuntimeError("a mistake")

    serve_vitals(path, SECRET, "r", LoopProbe(replica.loop), lambda: "running", lambda: 0, no_metrics, watch)
    client = await RpcClient.connect(str(path), SECRET)
    assert await asyncio.to_thread(failed.wait, 20)
    await client.call("vitals", timeout_s=5)
    stacks: ProcessStacks = await client.call("stacks", type=ProcessStacks, timeout_s=5)
    assert "headrace-vitals" in {thread.name for thread in stacks.threads}
    client.close()
    replica.stop()


async def test_several_may_ask_at_once(folder: Path) -> None:
    replica = Blocked()
    path = folder / "replica.vitals"
    serve_vitals(path, SECRET, "r", LoopProbe(replica.loop), lambda: "running", lambda: 0, no_metrics)
    clients = [await RpcClient.connect(str(path), SECRET) for _ in range(5)]
    answers = await asyncio.gather(*(client.call("vitals", timeout_s=5) for client in clients for _ in range(5)))
    assert all(msgspec.convert(answer, ReplicaVitals).loop_blocked_s == 0 for answer in answers)
    replica.block(1.0)
    answers = await asyncio.gather(*(client.call("vitals", timeout_s=5) for client in clients))
    assert all(msgspec.convert(answer, ReplicaVitals).loop_blocked_s > 0.3 for answer in answers)
    for client in clients:
        client.close()
    await until(lambda: all(client.closed for client in clients))
    replica.stop()


async def test_they_go_on_whatever_event_loops_this_process_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray gives its processes uvloop's.
    monkeypatch.setattr(asyncio, "run", uvloop.run)
    replica = Blocked()
    path = folder / "replica.vitals"
    serve_vitals(path, SECRET, "r", LoopProbe(replica.loop), lambda: "running", lambda: 0, no_metrics)
    # These close a server that nobody refers to, when that is noticed; once it has a connection it is referred to.
    for _ in range(50):
        await asyncio.sleep(0.01)
        gc.collect()
    client = await RpcClient.connect(str(path), SECRET)
    await client.call("vitals", timeout_s=5)
    client.close()
    replica.stop()
