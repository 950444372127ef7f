"""TCP, as between machines: as good as a Unix socket, and noticed when it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from headrace.wire import codec, tcp
from headrace.wire.callee import Listener, ServerCall, listen
from headrace.wire.caller import CallerConnection, connect

from .conditions import until
from .connected import SECRET, Recorded, Requests
from .test_gate import tcp_listener


@contextlib.asynccontextmanager
async def over_tcp(service: Requests) -> AsyncIterator[tuple[CallerConnection, Listener]]:
    sock = tcp_listener()
    listener = await listen(sock, SECRET, service)
    caller = await connect(f"127.0.0.1:{sock.getsockname()[1]}", SECRET)
    try:
        yield caller, listener
    finally:
        caller.abort()
        listener.close()
        await until(lambda: caller.closed and not listener.connections)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a callee that lives on a thread and event loop of its own, and tells how much it got."""
    sock = tcp_listener()
    loop = asyncio.new_event_loop()

    def answer(call: ServerCall) -> None:
        call.respond(0, b"", str(len(call.payload)).encode())

    async def serve() -> None:
        await listen(sock, SECRET, Requests(answer))

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield f"127.0.0.1:{sock.getsockname()[1]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


async def test_a_large_argument_does_not_stall_small_ones(elsewhere: str) -> None:
    caller = await connect(elsewhere, SECRET)
    large = Recorded()
    size = 200 * 1024 * 1024
    caller.call(large, 0, b"", bytes(size))
    latencies = []
    while not large.ended.done():
        small = Recorded()
        began = time.monotonic()
        caller.call(small, 0, b"", bytes(1024))
        assert await small.ended == "response"
        latencies.append(time.monotonic() - began)
        assert bytes(small.payloads[0]) == b"1024"
    assert len(latencies) >= 10
    # The median of a busy machine; alone it is a few milliseconds.
    assert sorted(latencies)[len(latencies) // 2] < 0.25
    assert bytes(large.payloads[0]) == str(size).encode()
    caller.close()


async def test_several_large_arguments_take_turns(elsewhere: str) -> None:
    caller = await connect(elsewhere, SECRET)
    calls = [Recorded() for _ in range(4)]
    for i, call in enumerate(calls):
        caller.call(call, 0, b"", bytes((i + 1) * 10_000_000))
    for i, call in enumerate(calls):
        assert await call.ended == "response"
        assert int(bytes(call.payloads[0])) == (i + 1) * 10_000_000
    caller.close()


async def test_arrays_go_both_ways_and_can_be_written_to() -> None:
    flags, payload = codec.encode(np.arange(3_000_000, dtype=np.float64))

    def answer(call: ServerCall) -> None:
        array = codec.decode(call.flags, call.payload)
        array[0] = 7
        call.respond(*_answer(array))

    def _answer(array: np.ndarray) -> tuple[int, bytes, object]:  # type: ignore[type-arg]
        answer_flags, answer_payload = codec.encode(array)
        return answer_flags, b"", answer_payload

    async with over_tcp(Requests(answer)) as (caller, _):  # type: ignore[arg-type]
        call = Recorded()
        caller.call(call, flags, b"", payload)
        assert await call.ended == "response"
        got = codec.decode(call.flags, call.payloads[0])
        assert got[0] == 7 and got[-1] == 2_999_999 and got.flags.writeable and got.flags.aligned


async def test_both_ends_are_set_to_notice_a_machine_that_vanished() -> None:
    async with over_tcp(Requests()) as (caller, listener):
        (callee,) = listener.connections
        for end in (caller, callee):
            with tcp._socket_of(end.transport) as sock:
                assert sock is not None
                for option in (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
                    assert 1 <= sock.getsockopt(socket.IPPROTO_TCP, option) <= 10
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_nothing_is_looked_at_when_no_connection_is_left() -> None:
    async with over_tcp(Requests()):
        assert asyncio.get_running_loop() in tcp._watches
    assert asyncio.get_running_loop() not in tcp._watches


async def test_a_receiver_that_lives_and_takes_nothing_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """User code may block its event loop for minutes."""
    monkeypatch.setattr(tcp, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(tcp, "UNACKNOWLEDGED_S", 0.3)
    service = Requests(lambda call: call.respond(0, b""))
    async with over_tcp(service) as (caller, listener):
        first = Recorded()
        caller.call(first, 0, b"")
        await first.ended
        (callee,) = listener.connections
        callee.transport.pause_reading()
        # More than the systems in between keep, so that the window closes.
        calls = [Recorded() for _ in range(400)]
        for call in calls:
            caller.call(call, 0, b"", bytes(200_000))
        await asyncio.sleep(1)
        assert not caller.closed
        callee.transport.resume_reading()
        assert {await call.ended for call in calls} == {"response"}
