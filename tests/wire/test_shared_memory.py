"""Segments are used again when the receiver is done with them, never before, and leave no file behind."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.wire import codec, frames, shm
from headrace.wire.callee import ServerCall
from headrace.wire.connection import SharedMemory

from .conditions import until
from .connected import Connected, Recorded, Requests, connected

MakeShared = Callable[[], SharedMemory]


def array(number: int, size: int = 500_000) -> np.ndarray[Any, Any]:
    return np.full(size, number, dtype=np.uint8)


class Keeper:
    """Decodes what it is called with and keeps it until the test lets go."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def __call__(self, call: ServerCall) -> None:
        self.kept.append(codec.decode(call.flags, call.payload))
        call.payload = b""
        call.respond(0, b"")


async def send(both: Connected, value: Any) -> Recorded:
    flags, payload = codec.encode(value)
    call = both.call(b"", payload, flags)
    await call.ended
    return call


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_released_segment_is_used_again(folder: Path, segments: Path, shared: MakeShared) -> None:
    mine, keeper = shared(), Keeper()
    async with connected(folder, Requests(keeper), mine, shared()) as both:
        names = set()
        for i in range(20):
            await send(both, array(i))
            assert np.array_equal(keeper.kept.pop(), array(i))
            await until(lambda: not both.caller._lent)
            names |= files(segments)
        assert len(names) == 1
    mine.pool.close()
    assert not files(segments)


async def test_a_segment_is_not_used_again_while_the_receiver_looks_into_it(
    folder: Path, segments: Path, shared: MakeShared
) -> None:
    keeper = Keeper()
    async with connected(folder, Requests(keeper), shared(), shared()) as both:
        for i in range(5):
            await send(both, array(i))
        assert len(files(segments)) == len(both.caller._lent) == 5
        assert all(np.array_equal(kept, array(i)) for i, kept in enumerate(keeper.kept))
        part = keeper.kept[2][100:200]
        keeper.kept.clear()
        gc.collect()
        await until(lambda: len(both.caller._lent) == 1)
        for i in range(10, 20):
            await send(both, array(i))
            keeper.kept.clear()
        assert set(part.tolist()) == {2}


async def test_arrays_may_be_let_go_by_any_thread(folder: Path, segments: Path, shared: MakeShared) -> None:
    keeper = Keeper()
    async with connected(folder, Requests(keeper), shared(), shared()) as both:
        for _ in range(10):
            for i in range(8):
                await send(both, array(i))
            halves = [keeper.kept[:4], keeper.kept[4:]]
            keeper.kept.clear()
            barrier = threading.Barrier(2)

            def let_go(mine: list[Any], barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                while mine:
                    mine.pop()

            threads = [threading.Thread(target=let_go, args=(half,)) for half in halves]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            await until(lambda: not both.caller._lent)
        assert len(files(segments)) == 8


async def test_a_release_in_the_middle_of_another_is_not_forgotten(
    folder: Path, segments: Path, shared: MakeShared
) -> None:
    """The garbage collector may run, or another thread go on, between any two steps of a release."""
    keeper = Keeper()
    async with connected(folder, Requests(keeper), shared(), shared()) as both:
        await send(both, array(1))
        await send(both, array(2))
        callee = both.callee

        class Interrupted(deque[int]):
            def append(self, segment_id: int) -> None:
                super().append(segment_id)
                if keeper.kept:
                    keeper.kept.pop()

        callee._released = Interrupted()
        keeper.kept.pop()
        await until(lambda: not both.caller._lent)


async def test_a_lost_connections_segments_are_lent_to_nobody_else(
    folder: Path, segments: Path, shared: MakeShared
) -> None:
    mine, theirs, keeper = shared(), shared(), Keeper()
    async with connected(folder, Requests(keeper), mine, theirs) as both:
        await send(both, array(1))
    held = keeper.kept.pop()
    assert not files(segments)
    (folder / "wire.sock").unlink(missing_ok=True)
    async with connected(folder, Requests(keeper), mine, theirs) as both:
        for i in range(2, 6):
            await send(both, array(i))
        assert np.array_equal(held, array(1))
        keeper.kept.clear()
    del held
    gc.collect()
    mine.pool.close()
    assert not files(segments)


async def test_segments_of_calls_that_nobody_waits_for_come_back(
    folder: Path, segments: Path, shared: MakeShared
) -> None:
    """Large answers that cross a cancellation, and large requests that are cancelled."""
    theirs = shared()
    flags, payload = codec.encode(array(3))
    service = Requests()
    async with connected(folder, service, shared(), theirs) as both:
        for _ in range(10):
            call = both.call(b"", payload, flags)
            server = await service.next()
            server.respond(flags, b"", payload)
            call.abandon()
            server.payload = b""
            del server
        await until(lambda: not both.caller._lent and not both.callee._lent)
        assert len(files(segments)) < 10


async def test_chunks_of_a_stream_go_through_shared_memory_too(
    folder: Path, segments: Path, shared: MakeShared
) -> None:
    def answer(call: ServerCall) -> None:
        call.start(0, b"")
        for i in range(4):
            call.chunk(*codec.encode(array(i)))
        call.end()

    async with connected(folder, Requests(answer), shared(), shared()) as both:
        stream = both.call()
        assert await stream.ended == "end"
        assert [codec.decode(stream.flags, payload)[0] for payload in stream.payloads] == [0, 1, 2, 3]
        assert len(files(segments)) == 4
        stream.payloads.clear()
        gc.collect()
        await until(lambda: not both.callee._lent)


@pytest.mark.parametrize("missing", ["space", "the folder", "allowance"])
async def test_without_room_in_shared_memory_payloads_go_through_the_socket(
    missing: str, folder: Path, segments: Path, shared: MakeShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    mine, keeper = shared(), Keeper()
    if missing == "space":
        monkeypatch.setattr(os, "posix_fallocate", full)
    elif missing == "the folder":
        mine.pool._folder = folder / "nowhere"
    else:
        monkeypatch.setattr(shm, "_MAX_TOTAL_BYTES", 1000)
    async with connected(folder, Requests(keeper), mine, shared()) as both:
        await send(both, array(7, 2_000_000))
        assert np.array_equal(keeper.kept.pop(), array(7, 2_000_000))
        assert not files(segments) and not both.caller._lent


async def test_a_cancelled_stream_gives_back_segments_that_wait_behind_a_frame_in_parts(
    folder: Path, segments: Path, shared: MakeShared, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Requests()
    async with connected(folder, service, shared(), shared()) as both:
        stream = both.call(greedy=False)
        server = await service.next()
        server.start(0, b"")
        with monkeypatch.context() as patched:
            patched.setattr(shm, "_MAX_TOTAL_BYTES", 1000)
            server.chunk(*codec.encode(array(1, 8_000_000)))  # in parts
        server.chunk(*codec.encode(array(2)))  # in a segment, behind the parts
        assert len(both.callee._lent) == 1 and both.callee._bulk
        stream.abandon()
        await until(lambda: not both.callee._lent and not both.callee._bulk)


def test_idle_segments_are_bounded(segments: Path, shared: MakeShared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "_MAX_IDLE_BYTES", 1_000_000)
    pool = shared().pool
    taken = [pool.write([bytes(300_000)], 300_000) for _ in range(10)]
    assert len(files(segments)) == 10
    for segment in taken:
        assert segment is not None
        pool.give_back(segment)
    assert 0 < len(files(segments)) <= 3
    pool.close()
    assert not files(segments) and pool._total_bytes == 0


def test_payloads_of_about_one_size_share_segments(segments: Path, shared: MakeShared) -> None:
    pool = shared().pool
    for size in (10_000_000, 10_000_100, 9_990_000):
        segment = pool.write([bytes(size)], size)
        assert segment is not None and segment.size <= size * 1.35
        pool.give_back(segment)
    assert len(files(segments)) == 1


def test_the_folder_must_be_the_users_own(segments: Path) -> None:
    name = segments.name.removeprefix("headrace-")
    assert shm.shared_folder(name) == segments
    segments.chmod(0o755)
    assert shm.shared_folder(name) is None
    segments.chmod(0o700)
    link = segments.with_name(segments.name + "-link")
    link.symlink_to(segments)
    try:
        assert shm.shared_folder(name + "-link") is None
    finally:
        link.unlink()


def test_small_payloads_do_not_go_through_shared_memory() -> None:
    assert shm.MIN_PAYLOAD >= frames.PART_BYTES // 4
