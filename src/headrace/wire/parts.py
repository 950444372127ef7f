"""Frames too large for one piece: cut into `PART` frames, and put together again."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from headrace.wire import frames
from headrace.wire.codec import ALIGN, Buffers
from headrace.wire.errors import ProtocolViolation

_MAPPED_FROM = 1024 * 1024
"""From so many bytes on, the room for a frame is mapped: its pages come as they are filled. Clearing a gigabyte at once
would hold up everything else for the better part of a second."""


class Part:
    """The part of a frame that is arriving: which call's, and how many bytes are to come."""

    __slots__ = ("call_id", "left")

    def __init__(self, call_id: int, left: int) -> None:
        self.call_id = call_id
        self.left = left


class Assembly:
    """A frame that arrives in parts. Its header lies so that the payload, and the arrays in it, are aligned."""

    __slots__ = ("flags", "header_len", "kind", "payload_start", "position", "view")

    def __init__(self, total: int, header_len: int, kind: int, flags: int) -> None:
        self.position = -header_len % ALIGN
        self.payload_start = self.position + header_len
        size = self.position + total
        # Private: what a fork of user code writes stays its own.
        room = mmap.mmap(-1, size, flags=_PRIVATE) if size >= _MAPPED_FROM else bytearray(size)
        self.view = memoryview(room)
        self.header_len = header_len
        self.kind = kind
        self.flags = flags

    @staticmethod
    def described(description: bytes) -> Assembly:
        """Room for the frame that the header of its first part describes.

        Raises:
            ProtocolViolation: it describes none, or one that is too large.
        """
        try:
            total, header_len, kind, flags = frames.PART_HEADER.unpack(description)
        except Exception as error:
            raise ProtocolViolation("the first part of a frame does not describe it") from error
        if not 0 < total <= frames.MAX_ASSEMBLED or header_len > total:
            raise ProtocolViolation("a frame in parts is too large")
        return Assembly(total, header_len, kind, flags)

    def add(self, piece: memoryview) -> bool:
        """Take the next bytes. Returns whether that were all.

        Raises:
            ProtocolViolation: it has no room for so many.
        """
        end = self.position + len(piece)
        if end > len(self.view):
            raise ProtocolViolation("more parts than the frame has bytes")
        self.view[self.position : end] = piece
        self.position = end
        return end == len(self.view)

    @property
    def header(self) -> bytes:
        return bytes(self.view[self.payload_start - self.header_len : self.payload_start])

    @property
    def payload(self) -> memoryview:
        return self.view[self.payload_start :]


_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def in_parts(
    kind: int, flags: int, call_id: int, header: bytes, payload: Buffers | list[bytes], total: int
) -> Iterator[list[bytes | memoryview]]:
    """The PART frames of a large frame, each as the buffers that make it up; the first describes it."""
    description = frames.PART_HEADER.pack(total, len(header), kind, flags)
    for buffer in (header, *payload):
        view = memoryview(buffer)
        for start in range(0, len(view), frames.PART_BYTES):
            piece = view[start : start + frames.PART_BYTES]
            head = frames.HEAD.pack(len(description) + len(piece), call_id, len(description), frames.PART, 0)
            yield [head + description, piece]
            description = b""
