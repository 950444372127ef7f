"""Frames: Python calls to bytes for the socket, and bytes from the socket to Python calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from bench.micro.timing import Case
from headrace.wire import frames
from headrace.wire.connection import Connection

_HEADER = b"\x82\xa6method\xa8__call__\xaarequest_id\xd9$" + b"0" * 36  # as long as a request's header is


class _Loop:
    """Runs what is scheduled when told to, in place of an event loop's turn."""

    def __init__(self) -> None:
        self._soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()


class _Transport:
    """Forgets what is written, or keeps it to be read back."""

    def __init__(self) -> None:
        self.kept: list[bytes] | None = None

    def write(self, data: bytes) -> None:
        if self.kept is not None:
            self.kept.append(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        if self.kept is not None:
            self.kept.extend(pieces)

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        """Nothing: it is no socket."""


class _Counting(Connection):
    received = 0

    def refill(self) -> None:
        """The peer has taken all parts, as far as this end knows."""
        self._part_window = frames.PART_WINDOW

    def frame_received(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes | memoryview) -> None:
        self.received += 1


def _connection() -> tuple[_Counting, _Loop, _Transport]:
    loop, transport = _Loop(), _Transport()
    connection = _Counting(cast(asyncio.AbstractEventLoop, loop), None)
    connection.connection_made(cast(Any, transport))
    connection.authenticated = True
    return connection, loop, transport


def _encode(count: int, payload: bytes) -> Callable[[], object]:
    connection, loop, _ = _connection()

    def call() -> None:
        for call_id in range(1, count + 1):
            connection.send(frames.REQUEST, 0, call_id, _HEADER, payload)
        loop.turn()
        connection.refill()

    return call


def _decode(count: int, payload: bytes) -> Callable[[], object]:
    sender, loop, transport = _connection()
    transport.kept = []
    for call_id in range(1, count + 1):
        sender.send(frames.REQUEST, 0, call_id, _HEADER, payload)
    loop.turn()
    data = b"".join(transport.kept)
    receiver, _, _ = _connection()
    receiver.data_received(data)
    if receiver.received != count:
        raise AssertionError(f"{receiver.received} of {count} frames were read back")
    return lambda: receiver.data_received(data)


def frame_cases() -> list[Case]:
    """Small frames alone and sixteen in one loop turn; larger ones up to several parts."""
    cases = []
    for count, size, name in (
        (1, 16, "16 B, one per turn"),
        (16, 16, "16 B, sixteen per turn"),
        (1, 1024, "1 KB"),
        (1, 64 * 1024, "64 KB"),
        (1, 1024 * 1024, "1 MB, in parts"),
    ):
        payload = bytes(size)
        cases.append(Case("frame to bytes", name, _encode(count, payload), count, size if size >= 1024 else 0))
        cases.append(Case("bytes to frame", name, _decode(count, payload), count, size if size >= 1024 else 0))
    return sorted(cases, key=lambda case: case.group, reverse=True)
