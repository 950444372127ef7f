"""The layout of a frame on the socket.

A frame is a fixed head of 14 bytes (little-endian), then `header_len` bytes of header, then the payload::

    u32 length       bytes after the head (header and payload)
    u32 call_id      which call; 0 for the connection itself
    u32 header_len   how much of the rest is header
    u8  kind
    u8  flags        meaning depends on kind

Headers are small and opaque here (msgpack by convention); payloads are raw bytes. A frame is at most `MAX_FRAME` long
so that no call keeps the connection to itself for long and a receiver's buffer is bounded: larger ones travel as
`PART` frames, interleaved with others, and are put together again by the receiver.
"""

from __future__ import annotations

import struct
from typing import Final

HEAD: Final = struct.Struct("<IIIBB")
HEAD_BYTES: Final = HEAD.size
PART_HEADER: Final = struct.Struct("<QIBB")  # total bytes, header length, kind and flags of the frame in parts

PART_BYTES: Final = 256 * 1024
MAX_FRAME: Final = 1024 * 1024
MAX_ASSEMBLED: Final = 1 << 34

# Kinds, caller to callee.
REQUEST: Final = 1
CANCEL: Final = 2
# Kinds, callee to caller.
RESPONSE: Final = 3
START: Final = 4
ERROR: Final = 5
REJECT: Final = 6
# Kinds, both ways.
CHUNK: Final = 7
END: Final = 8
CREDIT: Final = 9
PART: Final = 10
# Kinds of the connection itself (call_id 0).
CAPACITY: Final = 11
RELEASE: Final = 12
PING: Final = 13
PONG: Final = 14

PART_CREDIT: Final = 15

KINDS: Final = frozenset(range(1, 16))

# Flags of REQUEST: what the header is, and whether CHUNK frames of the body follow.
MORE: Final = 0x01
STREAM: Final = 0x02
HTTP: Final = 0x04
WEBSOCKET: Final = 0x08
CONTROL: Final = 0x10

# Flags of any payload: how it is encoded (see `codec`).
PICKLED: Final = 0x20
BUFFERS: Final = 0x40
SHARED: Final = 0x80
PAYLOAD_FLAGS: Final = PICKLED | BUFFERS | SHARED

CREDIT_BODY: Final = struct.Struct("<I")
STREAM_WINDOW: Final = 1024 * 1024
"""Bytes of a stream that may be under way before the receiver has said that it took some."""
PART_WINDOW: Final = 2 * 1024 * 1024
"""Bytes of frames in parts that may be under way on a connection before the receiver has said that it took some. What a
small request waits behind: left to themselves, systems keep tens of megabytes between two programs. Enough for a
gigabyte per second at a round trip of 2 ms."""
CHUNK_OVERHEAD: Final = 64
"""What a chunk counts for beyond its payload, so that a million empty chunks are bounded too."""
