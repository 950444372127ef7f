"""Streams in both directions: nobody is sent more than a window, and whoever leaves frees everything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.wire import frames
from headrace.wire.callee import ServerCall
from headrace.wire.errors import ConnectionLost
from headrace.wire.frames import STREAM_WINDOW

from .conditions import turns, until
from .connected import Connected, Requests, connected

CHUNK = 10_000
MANY = 4 * STREAM_WINDOW // CHUNK


class Producer:
    """Streams `count` chunks to every call, as fast as it may."""

    def __init__(self, count: int = MANY, size: int = CHUNK) -> None:
        self.sent = 0
        self.count, self.size = count, size
        self.failed: BaseException | None = None
        self.tasks: list[asyncio.Task[None]] = []

    def __call__(self, call: ServerCall) -> None:
        task = asyncio.ensure_future(self._produce(call))
        self.tasks.append(task)

    async def _produce(self, call: ServerCall) -> None:
        try:
            call.start(0, b"")
            for i in range(self.count):
                if not call.is_writable:
                    await call.writable()
                call.chunk(0, i.to_bytes(4, "little") * (self.size // 4))
                self.sent += 1
            call.end()
        except BaseException as error:
            self.failed = error


async def settled(count: Any) -> None:
    """Until `count()` stays the same while the loop turns and the socket is read."""
    before, same = count(), 0
    async with asyncio.timeout(20):
        while same < 20:
            await asyncio.sleep(0.002)
            now = count()
            before, same = now, same + 1 if now == before else 0


async def test_a_fast_producer_stops_at_the_window_of_a_slow_consumer_and_goes_on_as_it_takes(folder: Path) -> None:
    producer = Producer()
    async with connected(folder, Requests(producer)) as both:
        slow = both.call(greedy=False)
        await settled(lambda: slow.received)
        assert STREAM_WINDOW * 0.9 < slow.received <= STREAM_WINDOW + CHUNK
        assert producer.sent * CHUNK <= STREAM_WINDOW + CHUNK
        taken = 0
        while not slow.ended.done():
            for payload in slow.payloads[taken:]:
                slow.took(len(payload))
            taken = len(slow.payloads)
            assert (producer.sent - taken) * CHUNK <= STREAM_WINDOW + CHUNK
            await asyncio.sleep(0)
        numbers = [int.from_bytes(payload[:4], "little") for payload in slow.payloads]
        assert numbers == list(range(MANY))
        assert not both.caller.calls and not both.callee.calls


async def test_empty_chunks_count_too(folder: Path) -> None:
    producer = Producer(count=100_000, size=0)
    async with connected(folder, Requests(producer)) as both:
        slow = both.call(greedy=False)
        await settled(lambda: len(slow.payloads))
        assert len(slow.payloads) <= STREAM_WINDOW // frames.CHUNK_OVERHEAD + 1
        slow.abandon()


async def test_a_slow_consumer_holds_up_no_other_stream(folder: Path) -> None:
    async with connected(folder, Requests(Producer())) as both:
        slow = both.call(greedy=False)
        fast = both.call()
        assert await fast.ended == "end"
        assert fast.received == MANY * CHUNK
        assert not slow.ended.done()
        slow.abandon()


async def test_several_tasks_may_send_one_stream(folder: Path) -> None:
    async def many(call: ServerCall) -> None:
        async def some(letter: bytes) -> None:
            for _ in range(MANY):
                await call.writable()
                call.chunk(0, letter * CHUNK)

        call.start(0, b"")
        await asyncio.gather(some(b"a"), some(b"b"), some(b"c"))
        call.end()

    tasks = []
    async with connected(folder, Requests(lambda call: tasks.append(asyncio.ensure_future(many(call))))) as both:
        stream = both.call(greedy=False)
        taken = 0
        async with asyncio.timeout(20):
            while not stream.ended.done():
                for payload in stream.payloads[taken:]:
                    stream.took(len(payload))
                taken = len(stream.payloads)
                await asyncio.sleep(0)
        assert (
            sorted(bytes(payload[:1]) for payload in stream.payloads) == [b"a"] * MANY + [b"b"] * MANY + [b"c"] * MANY
        )


async def _send_body(both: Connected, call: Any, count: int) -> int:
    sent = 0
    for i in range(count):
        while call.send_window <= 0:
            call.events.clear()
            await until(lambda: ("credit", b"") in call.events or call.ended.done())
            if call.ended.done():
                return sent
        await both.caller.drain()
        call.send_body(i.to_bytes(4, "little") * (CHUNK // 4))
        sent += 1
    call.end_body()
    return sent


async def test_a_body_waits_until_it_is_accepted_and_stops_at_the_window(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        call = both.call(b"", b"", frames.MORE)
        sending = asyncio.ensure_future(_send_body(both, call, MANY))
        server = await service.next()
        await turns(10)
        assert call.send_window == 0 and not server._body
        server.accept_body()
        await settled(lambda: len(server._body or ()))
        assert server._body is not None
        held = sum(map(len, server._body))
        assert STREAM_WINDOW * 0.9 < held <= STREAM_WINDOW + CHUNK
        pieces = []
        while (piece := await server.receive()) is not None:
            pieces.append(piece)
            assert sum(map(len, server._body)) <= STREAM_WINDOW + CHUNK
        assert await sending == MANY
        assert [int.from_bytes(piece[:4], "little") for piece in pieces] == list(range(MANY))
        server.respond(0, b"")
        assert await call.ended == "response"
        assert not both.caller.calls and not both.callee.calls


async def test_several_tasks_may_wait_for_a_body(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        call = both.call(b"", b"", frames.MORE)
        server = await service.next()
        server.accept_body()
        waiting = [asyncio.ensure_future(server.receive()) for _ in range(3)]
        await until(lambda: call.send_window > 0)
        call.send_body(b"one")
        call.end_body()
        async with asyncio.timeout(10):
            assert sorted(await asyncio.gather(*waiting), key=repr) == [None, None, b"one"]
        server.respond(0, b"")


async def test_a_caller_that_abandons_a_stream_frees_both_ends(folder: Path) -> None:
    producer = Producer()
    async with connected(folder, Requests(producer)) as both:
        call = both.call(greedy=False)
        await until(lambda: call.payloads)
        cancelled = []
        (server,) = both.callee.calls.values()
        server.on_cancel = lambda: cancelled.append(True)
        call.abandon()
        assert not both.caller.calls
        await until(lambda: not both.callee.calls and producer.failed)
        assert cancelled == [True] and isinstance(producer.failed, ConnectionLost)
        assert not call.ended.done()  # nothing is told to whoever has left
        assert not both.callee._bulk and not both.caller._bulk


async def test_a_caller_that_abandons_a_body_frees_both_ends(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        call = both.call(b"", b"", frames.MORE)
        server = await service.next()
        server.accept_body()
        await until(lambda: call.send_window > 0)
        call.send_body(b"a beginning")
        assert await server.receive() == b"a beginning"
        waiting = asyncio.ensure_future(server.receive())
        call.abandon()
        with pytest.raises(ConnectionLost):
            await waiting
        call.send_body(b"nobody takes this")
        call.end_body()
        assert not both.caller.calls and not both.callee.calls


@pytest.mark.parametrize("how", ["respond", "fail", "reject", "end"])
async def test_a_callee_that_ends_early_frees_both_ends(how: str, folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        call = both.call(b"", b"", frames.MORE)
        server = await service.next()
        server.accept_body()
        await until(lambda: call.send_window > 0)
        call.send_body(b"x" * 1000)
        {
            "respond": lambda: server.respond(0, b""),
            "fail": lambda: server.fail(0, b""),
            "reject": lambda: server.reject(b""),
            "end": lambda: server.end(b""),
        }[how]()
        server.respond(0, b"a second answer is not sent")
        await call.ended
        assert [event for event, _ in call.events if event != "credit"] == [await call.ended]
        call.send_body(b"late")
        await turns()
        assert not both.caller.calls and not both.callee.calls


async def test_a_cancel_that_crosses_the_answer_is_ignored(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        for _ in range(20):
            call = both.call()
            server = await service.next()
            server.respond(0, b"")
            call.abandon()
        answered = both.call()
        (await service.next()).respond(0, b"")
        assert await answered.ended == "response"
        assert not both.caller.calls and not both.callee.calls


async def test_a_lost_connection_ends_every_call_once_at_both_ends(folder: Path) -> None:
    producer = Producer()
    waiting: list[ServerCall] = []
    cancelled: list[int] = []

    def answer(call: ServerCall) -> None:
        call.on_cancel = lambda: cancelled.append(call.id)
        if call.header == b"stream":
            producer(call)
        else:
            waiting.append(call)

    lost: list[bool] = []
    async with connected(folder, Requests(answer)) as both:
        both.caller.on_lost = lambda: lost.append(True)
        calls = [both.call(b"unary") for _ in range(50)]
        calls += [both.call(b"stream", greedy=False) for _ in range(3)]
        calls += [both.call(b"body", b"", frames.MORE)]
        await until(lambda: len(waiting) == 51)
        body = next(call for call in waiting if call.header == b"body")
        receiving = asyncio.ensure_future(body.receive())
        await turns()
        callee = both.callee
        callee.abort()
        assert await asyncio.gather(*(call.ended for call in calls)) == ["lost"] * len(calls)
        with pytest.raises(ConnectionLost):
            await receiving
        await until(lambda: len(cancelled) == len(calls) and producer.failed)
        assert sorted(cancelled) == sorted(set(cancelled))
        assert lost == [True]
        assert not both.caller.calls and not callee.calls
        for call in waiting:
            call.respond(0, b"too late")
        late = both.call(b"after the end")
        assert await late.ended == "lost"


async def test_a_call_that_raises_when_told_of_the_loss_leaves_no_other_untold(folder: Path) -> None:
    async with connected(folder, Requests()) as both:
        first, second = both.call(), both.call()

        def raises(error: ConnectionLost) -> None:
            raise ValueError("a bug")

        first.on_lost = raises  # type: ignore[method-assign]
        both.caller.abort()
        assert await second.ended == "lost"


async def test_a_producer_that_will_not_hear_of_the_end_is_stopped(folder: Path) -> None:
    service = Requests()
    async with connected(folder, service) as both:
        call = both.call(greedy=False)
        server = await service.next()
        server.start(0, b"")
        server.chunk(0, b"x")
        await until(lambda: call.payloads)
        assert server.is_writable
        call.abandon()
        await until(lambda: server.cancelled)
        assert not server.is_writable
        with pytest.raises(ConnectionLost):
            await server.writable()
