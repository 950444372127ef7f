"""Frames too large for one piece: others pass them by, and each call's own stay in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headrace.wire import codec, frames
from headrace.wire.callee import ServerCall
from headrace.wire.connection import SharedMemory

from .conditions import until
from .connected import Requests, connected

LARGE = 64 * 1024 * 1024


async def test_small_calls_pass_a_large_argument_by(folder: Path) -> None:
    delivered: list[int] = []

    def answer(call: ServerCall) -> None:
        delivered.append(len(call.payload))
        call.respond(0, b"", b"")

    async with connected(folder, Requests(answer)) as both:
        large = both.call(b"large", bytes(LARGE))
        for _ in range(5):
            assert await both.call(b"small").ended == "response"
        assert LARGE not in delivered and len(delivered) == 5
        assert await large.ended == "response"
        assert delivered[-1] == LARGE


async def test_small_calls_pass_a_large_answer_by(folder: Path) -> None:
    def answer(call: ServerCall) -> None:
        call.respond(0, b"", bytes(LARGE) if call.header == b"large" else b"")

    async with connected(folder, Requests(answer)) as both:
        large = both.call(b"large")
        for _ in range(5):
            assert await both.call(b"small").ended == "response"
        assert not large.ended.done()
        await large.ended
        assert large.received == LARGE


async def test_chunks_of_a_stream_stay_in_order_whatever_their_sizes(folder: Path) -> None:
    sizes = [10, 3 * frames.PART_BYTES, 0, 5, frames.PART_BYTES, frames.PART_BYTES + 1, 7, 2 * frames.PART_BYTES, 1]

    async def answer(call: ServerCall) -> None:
        call.start(0, b"")
        for i, size in enumerate(sizes):
            await call.writable()
            call.chunk(0, bytes([i]) * size)
            call.chunk(0, [bytes([i]) * size])
        call.end(b"done")

    tasks = []
    service = Requests(lambda call: tasks.append(asyncio.ensure_future(answer(call))))
    async with connected(folder, service) as both:
        streams = [both.call() for _ in range(3)]
        for stream in streams:
            assert await stream.ended == "end"
            expected = [bytes([i]) * size for i, size in enumerate(sizes) for _ in range(2)]
            assert [bytes(payload) for payload in stream.payloads] == expected


async def test_arrays_that_travel_in_parts_are_aligned(folder: Path) -> None:
    value = {"a": np.arange(200_000, dtype=np.float64), "b": np.arange(300_000, dtype=np.complex128)}
    flags, payload = codec.encode(value)
    service = Requests(lambda call: call.respond(flags, b"odd", payload))
    async with connected(folder, service) as both:
        answered = both.call()
        await answered.ended
        got = codec.decode(answered.flags, answered.payloads[0])
        for name, array in value.items():
            assert np.array_equal(got[name], array)
            assert got[name].flags.aligned and got[name].flags.writeable


async def test_a_large_frame_on_its_way_arrives_whole_before_the_connection_closes(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, b"", bytes(LARGE // 8)))
    async with connected(folder, service) as both:
        large = both.call()
        await until(lambda: service.calls)
        both.listener.close()
        assert await large.ended == "response"
        await until(lambda: both.caller.closed)


async def test_a_cancelled_large_argument_that_has_not_begun_to_leave_is_not_sent(
    folder: Path, shared: Callable[[], SharedMemory]
) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        first = both.call(b"first", bytes(LARGE // 8))
        assert both.caller.congested
        second = both.call(b"second", bytes(LARGE))
        second.abandon()
        third = both.call(b"third")
        while (call := await service.next()).header != b"first":
            call.respond(0, b"", b"")
        call.respond(0, b"", b"")
        assert await third.ended == await first.ended == "response"
        assert not any(call.header == b"second" for call in service.calls)
        assert not both.caller.calls and not both.callee.calls and not both.callee._assemblies


async def test_a_cancelled_large_argument_that_is_under_way_harms_nobody(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        large = both.call(b"large", bytes(LARGE // 4))
        await until(lambda: both.callee._assemblies)
        large.abandon()
        small = both.call(b"small")
        while (call := await service.next()).header != b"small":
            assert call.header == b"large"
        call.respond(0, b"", b"")
        assert await small.ended == "response"
        await until(lambda: not both.callee._assemblies and not both.callee.calls)
        assert not large.ended.done()


async def test_a_cancelled_large_argument_stops_where_it_is(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        for _ in range(20):  # each leaves the room on the connection as it was
            large = both.call(b"large", bytes(LARGE))
            await until(lambda: both.callee._assemblies)
            large.abandon()
            assert not both.caller._bulk
        small = both.call(b"small")
        call = await service.next()
        assert call.header == b"small" and not both.callee._assemblies
        call.respond(0, b"", b"")
        assert await small.ended == "response"
        whole = both.call(b"whole", bytes(LARGE // 4))
        call = await service.next()
        assert len(call.payload) == LARGE // 4
        call.respond(0, b"", b"")
        assert await whole.ended == "response"


async def test_a_cancelled_large_answer_stops_where_it_is(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, b"", bytes(LARGE) if call.header == b"large" else b""))
    async with connected(folder, service) as both:
        for _ in range(20):
            large = both.call(b"large")
            await until(lambda: both.caller._assemblies)
            large.abandon()
            assert not both.caller._assemblies
        assert await both.call(b"small").ended == "response"
        # It was answered already, so that nothing is left to cancel: what still comes is let go as it comes.
        await until(lambda: not both.callee._bulk)
        assert not both.caller._assemblies
        whole = both.call(b"large")
        assert await whole.ended == "response" and whole.received == LARGE


async def test_a_large_argument_for_which_there_is_no_room_is_not_sent_to_its_end(folder: Path) -> None:
    class Full(Requests):
        room = 0

        def turned_away(self, call: ServerCall) -> bool:
            if not self.room:
                call.reject(b"full")
            return not self.room

    service = Full(lambda call: call.respond(0, b"", b""))
    async with connected(folder, service) as both:
        for _ in range(20):
            call = both.call(b"large", bytes(LARGE))
            assert await call.ended == "reject"
            assert not both.caller._bulk and not both.callee._assemblies
        service.room = 1
        assert await both.call(b"large", bytes(LARGE)).ended == "response"
        assert len(service.calls) == 1


async def test_one_who_takes_nothing_gets_no_more_than_the_window(folder: Path) -> None:
    service = Requests(lambda call: call.respond(0, b"", b""))
    async with connected(folder, service) as both:
        await both.call().ended
        both.callee.transport.pause_reading()
        large = both.call(b"", bytes(LARGE))
        await asyncio.sleep(0.1)
        assert frames.PART_WINDOW - both.caller._part_window <= frames.PART_WINDOW + frames.PART_BYTES
        both.callee.transport.resume_reading()
        assert await large.ended == "response"
