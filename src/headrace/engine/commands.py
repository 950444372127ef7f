"""What is said on `root.sock`: frames of a four-byte length and msgpack. Requests carry an id, answers repeat it.

The socket lies in a folder that only its user can enter, and the root looks at the peer's uid besides; so there is no
further proof of identity.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from headrace.engine.process import ProcessSpec

_LENGTH = struct.Struct(">I")
MAX_FRAME = 64 * 1024 * 1024
"""Bytes. A longer frame is garbage."""


class Start(msgspec.Struct, tag="start"):
    """Answered with its `ProcessInfo`."""

    id: int
    spec: ProcessSpec


class Kill(msgspec.Struct, tag="kill"):
    """Answered with whether there is such a process."""

    id: int
    name: str
    signal: int


class Inspect(msgspec.Struct, tag="inspect"):
    """Answered with a list of one: an `Activity`, or nil."""

    id: int
    name: str


class ListProcesses(msgspec.Struct, tag="list"):
    """Answered with a list of `ProcessInfo`."""

    id: int


class StopProxies(msgspec.Struct, tag="stop_proxies"):
    """Answered with nil when no more connections are accepted and the proxies have been told to end."""

    id: int


class Subscribe(msgspec.Struct, tag="subscribe"):
    """Answered with a `ProcessExited` for every end after number `since`, as they come."""

    id: int
    since: int


class Shutdown(msgspec.Struct, tag="shutdown"):
    """Answered with nil when it has begun. The connection ends when it is done."""

    id: int


Request: TypeAlias = Start | Kill | Inspect | ListProcesses | StopProxies | Subscribe | Shutdown


class Reply(msgspec.Struct):
    """`error`: why it was not done. `value`: what the request says."""

    id: int
    error: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"\xc0")


class BrokenFrame(Exception):
    """What came is not a frame."""


def frame(message: Request | Reply) -> bytes:
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what comes in into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """
        Raises:
            BrokenFrame: the announced length is absurd.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise BrokenFrame(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield body
