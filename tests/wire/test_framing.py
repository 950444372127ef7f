"""Frames are the same however the socket cuts and joins their bytes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.wire import frames
from headrace.wire.callee import CalleeConnection
from headrace.wire.caller import CallerConnection
from headrace.wire.connection import Connection

from .connected import Requests

Frame = tuple[int, int, int, bytes, bytes]


class Loop:
    """Collects what is to run on the next turn."""

    def __init__(self) -> None:
        self.soon: list[Any] = []

    def call_soon(self, callback: Any, *args: Any) -> None:
        self.soon.append((callback, args))

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)


class Socket:
    """Takes `room` bytes before it asks to pause."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.connection: Connection
        self.room = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data
        self.room -= len(data)
        if self.room <= 0:
            self.connection.pause_writing()

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def take(self, room: int) -> None:
        self.room = room
        if self.connection.congested:
            self.connection.resume_writing()

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


class Receiver(Connection):
    def __init__(self) -> None:
        super().__init__(cast(asyncio.AbstractEventLoop, Loop()), None)
        self.authenticated = True
        self.frames: list[Frame] = []
        self.connection_made(cast(asyncio.Transport, Socket()))

    def frame_received(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes | memoryview) -> None:
        self.frames.append((kind, flags, call_id, bytes(header), bytes(payload)))


def sender() -> tuple[Connection, Socket, Loop]:
    loop, socket = Loop(), Socket()
    connection = Connection(cast(asyncio.AbstractEventLoop, loop), None)
    connection._part_window = 1 << 40  # nobody here says that he took some
    socket.connection = connection
    connection.connection_made(cast(asyncio.Transport, socket))
    return connection, socket, loop


frame = st.tuples(
    st.sampled_from([frames.REQUEST, frames.RESPONSE, frames.CHUNK, frames.START, frames.END, frames.CREDIT]),
    st.sampled_from([0, frames.MORE, frames.PICKLED, frames.STREAM | frames.HTTP]),
    st.integers(1, 4),
    st.binary(max_size=80),
    st.binary(max_size=50) | st.binary(min_size=60, max_size=400),
)


def by_call(sent: list[Frame]) -> dict[int, list[Frame]]:
    calls: dict[int, list[Frame]] = {}
    for one in sent:
        calls.setdefault(one[2], []).append(one)
    return calls


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.lists(frame, max_size=12),
    st.lists(st.integers(1, 500), min_size=1),
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.lists(st.booleans(), min_size=1),
)
def test_frames_cut_and_joined_anywhere_arrive_whole_and_in_their_calls_order(
    monkeypatch: pytest.MonkeyPatch, sent: list[Frame], cuts: list[int], rooms: list[int], turns: list[bool]
) -> None:
    monkeypatch.setattr(frames, "PART_BYTES", 64)  # so that small frames travel in parts too
    connection, socket, loop = sender()
    for i, (kind, flags, call_id, header, payload) in enumerate(sent):
        as_buffers = flags & frames.PICKLED and len(payload) > 10
        connection.send(kind, flags, call_id, header, [payload[:7], payload[7:]] if as_buffers else payload)
        if turns[i % len(turns)]:
            loop.turn()
            socket.take(rooms[i % len(rooms)])
    loop.turn()
    while connection._bulk:
        socket.take(1000)
    receiver = Receiver()
    written = bytes(socket.written)
    position = i = 0
    while position < len(written):
        cut = cuts[i % len(cuts)]
        receiver.data_received(written[position : position + cut])
        position, i = position + cut, i + 1
    assert by_call(receiver.frames) == by_call(sent)
    assert len(receiver.frames) == len(sent)
    assert not receiver._pending and not receiver._assemblies


async def test_connections_stay_compact() -> None:
    """Beyond 30 attributes CPython keeps a dictionary per object, and each call costs 5 % more."""
    loop = asyncio.get_running_loop()
    assert len(vars(CallerConnection(loop, b"", None))) <= 30
    assert len(vars(CalleeConnection(loop, b"", Requests(), None, set()))) <= 30


def test_a_loop_turns_small_frames_leave_in_one_write() -> None:
    connection, socket, loop = sender()
    writes: list[bytes] = []
    socket.write = writes.append  # type: ignore[method-assign]
    for i in range(10):
        connection.send(frames.REQUEST, 0, i + 1, b"h", b"p")
    loop.turn()
    assert len(writes) == 1


def test_large_frames_of_several_calls_take_turns() -> None:
    connection, socket, _ = sender()
    size = 8 * frames.PART_BYTES
    for call_id in (1, 2):
        connection.send(frames.REQUEST, 0, call_id, b"", bytes(size))
    while connection._bulk:
        socket.take(1)
    order, position = [], 0
    written = bytes(socket.written)
    while position < len(written):
        length, call_id, *_ = frames.HEAD.unpack_from(written, position)
        order.append(call_id)
        position += frames.HEAD_BYTES + length
    assert order[1:15] == [1, 2] * 7  # the first part left before there was a second call


def test_what_is_left_of_a_cancelled_calls_frames_is_not_sent() -> None:
    connection, socket, _ = sender()
    for _ in range(5):
        connection.send(frames.CHUNK, 0, 1, b"", bytes(4 * frames.PART_BYTES))
    connection.forget(1)
    while connection._bulk:
        socket.take(1)
    receiver = Receiver()
    receiver.data_received(bytes(socket.written))
    assert not receiver.frames
