"""One end of a connection: bytes in to frames, frames out to bytes, for callers and callees alike.

Small frames are gathered and leave in one system call per loop turn. A frame too large for that goes through shared
memory, or waits in a queue of its call and leaves in parts, in turn with other calls' parts, whenever the socket takes
more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import GeneratorType

import msgspec

from headrace.wire import frames, tcp
from headrace.wire.codec import Buffers
from headrace.wire.errors import ConnectionLost, ProtocolViolation
from headrace.wire.frames import CREDIT_BODY, HEAD, HEAD_BYTES, MAX_FRAME
from headrace.wire.parts import Assembly, Part, in_parts
from headrace.wire.shm import MIN_PAYLOAD, Segment, SegmentPool, map_segment

logger = logging.getLogger("headrace.wire")

_pack = HEAD.pack
_unpack = HEAD.unpack_from

_shared_encode = msgspec.msgpack.Encoder().encode
_shared_decode = msgspec.msgpack.Decoder(tuple[int, str, int]).decode
_release_decode = msgspec.msgpack.Decoder(list[int]).decode


class SharedMemory:
    """This process's segments and the folder that they lie in, shared by its connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = SegmentPool(folder)


class Connection(asyncio.Protocol):
    """Frames over one socket. Subclasses say what a frame means (`frame_received`, `lost`).

    Args:
        loop: the event loop that it lives on; nothing here may be called from another thread.
        shared: shared memory for large payloads, or None where the peer is on another machine.

    Attributes:
        silent: nothing has come since somebody set it; who wants to know of progress sets it and looks again later.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: SharedMemory | None) -> None:
        self.loop = loop
        self.shared = shared
        self.closed = False
        self.silent = False
        self.authenticated = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self._pending = b""
        self._out: list[bytes] = []
        self._paused = False
        self._drained: asyncio.Event = asyncio.Event()
        self._drained.set()
        self._bulk: dict[int, deque[Iterator[list[bytes | memoryview]]]] = {}
        self._turns: deque[int] = deque()
        self._assemblies: dict[int, Assembly] = {}
        self._part: Part | None = None
        self._part_taken = 0
        self._part_window = frames.PART_WINDOW
        self._lent: dict[int, Segment] = {}
        self._released: deque[int] = deque()
        self._releasing = False
        self._closing = False
        self._thread = threading.get_ident()

    # What subclasses implement.

    def frame_received(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes | memoryview) -> None:
        raise ProtocolViolation(f"unexpected frame of kind {kind}")

    def wanted(self, kind: int, call_id: int, flags: int) -> bool:
        """Whether a frame that comes in parts is to be taken; asked at the first of them."""
        return True

    def handshake_received(self, data: bytes) -> int:
        """Take handshake bytes; return how many were used (0: more are needed)."""
        raise ProtocolViolation("no handshake expected")

    def lost(self, error: ConnectionLost) -> None:
        """The connection is gone; fail whatever still waits on it."""

    # Out.

    def send(self, kind: int, flags: int, call_id: int, header: bytes = b"", payload: bytes | Buffers = b"") -> None:
        """Send one frame. Never blocks; large payloads leave as the socket takes them."""
        if self.closed:
            return
        if isinstance(payload, bytes):
            size = len(header) + len(payload)
            if size <= frames.PART_BYTES and call_id not in self._bulk:
                self._gather(_pack(size, call_id, len(header), kind, flags) + header + payload)
                return
            self._send_large(kind, flags, call_id, header, [payload], len(payload))
        else:
            self._send_large(kind, flags, call_id, header, payload, sum(map(len, payload)))

    def _gather(self, frame: bytes) -> None:
        out = self._out
        out.append(frame)
        if len(out) == 1:
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        out = self._out
        if out and not self.closed:
            data = out[0] if len(out) == 1 else b"".join(out)
            self._out = []
            self.transport.write(data)

    def _send_large(
        self, kind: int, flags: int, call_id: int, header: bytes, payload: Buffers | list[bytes], size: int
    ) -> None:
        if size >= MIN_PAYLOAD and flags & frames.PICKLED and self.shared is not None:
            segment = self.shared.pool.write(payload, size)
            if segment is not None:
                self._lent[segment.id] = segment
                shared = _shared_encode((segment.id, segment.name, size))
                payload, size, flags = [shared], len(shared), flags | frames.SHARED
        total = len(header) + size
        queue = self._bulk.get(call_id)
        if total <= frames.PART_BYTES and queue is None:
            self._gather(b"".join((_pack(total, call_id, len(header), kind, flags), header, *payload)))
            return
        if queue is None:
            queue = self._bulk[call_id] = deque()
            self._turns.append(call_id)
        if total <= frames.PART_BYTES:
            whole: list[bytes | memoryview] = [
                b"".join((_pack(total, call_id, len(header), kind, flags), header, *payload))
            ]
            queue.append(iter((whole,)))
        else:
            queue.append(in_parts(kind, flags, call_id, header, payload, total))
        self._write_bulk()

    def _write_bulk(self) -> None:
        self._flush()  # what a call has sent before its large frame stays before it
        turns, bulk = self._turns, self._bulk
        while turns and self._part_window > 0 and not self._paused and not self.closed:
            call_id = turns.popleft()
            queue = bulk[call_id]
            part = next(queue[0], None)
            if part is None:
                queue.popleft()
                if not queue:
                    del bulk[call_id]
                    continue
            else:
                if len(part) > 1:
                    self._part_window -= len(part[1])
                self.transport.writelines(part)
            turns.append(call_id)
        if self._closing and not turns:
            self.transport.close()

    def forget(self, call_id: int) -> None:
        """Drop a cancelled call's large frames, those of which parts have left or arrived too: the peer is told, or has
        told, that nobody waits for them. Small ones still leave: they may lend a segment, which it has to give back."""
        self._assemblies.pop(call_id, None)
        queue = self._bulk.get(call_id)
        if queue is not None:
            kept = [frame for frame in queue if not isinstance(frame, GeneratorType)]
            queue.clear()
            queue.extend(kept)
            if not kept:
                del self._bulk[call_id]
                self._turns.remove(call_id)

    async def drain(self) -> None:
        """Wait until the socket takes more.

        Raises:
            ConnectionLost: it ended meanwhile.
        """
        if self._paused:
            await self._drained.wait()
        if self.closed:
            raise ConnectionLost("the connection was closed")

    @property
    def congested(self) -> bool:
        return self._paused

    def pause_writing(self) -> None:
        self._paused = True
        self._drained.clear()

    def resume_writing(self) -> None:
        self._paused = False
        self._drained.set()
        if self._turns:
            self._write_bulk()

    # In.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=2 * frames.PART_BYTES)
        tcp.begin(self.transport, self.loop)

    def data_received(self, data: bytes) -> None:
        self.silent = False
        if self._pending:
            data = self._pending + data
            self._pending = b""
        try:
            if not self.authenticated:
                used = self.handshake_received(data)
                if not self.authenticated:
                    self._pending = data[used:]
                    return
                data = data[used:]
            self._parse(data)
        except ProtocolViolation as error:
            logger.warning("closed a connection from %s: %s", self._peer(), error)
            self.abort()
        except ConnectionLost as error:
            logger.debug("closed a connection from %s: %s", self._peer(), error)
            self.abort()
        except Exception:
            # A frame that is none inside, or a mistake of ours; where in its bytes the peer is cannot be known now.
            logger.exception("closed a connection from %s", self._peer())
            self.abort()

    def _parse(self, data: bytes) -> None:
        position = self._take_part(data, 0, self._part) if self._part is not None else 0
        size = len(data)
        while size - position >= HEAD_BYTES:
            length, call_id, header_len, kind, flags = _unpack(data, position)
            if length > MAX_FRAME or header_len > length or kind not in frames.KINDS:
                raise ProtocolViolation("bytes that are no frame")
            start = position + HEAD_BYTES
            end = start + length
            middle = start + header_len
            if end > size:
                if kind == frames.PART and middle <= size:
                    # What is here of it goes where it belongs, so that large frames are copied once.
                    part = self._part_begins(call_id, data[start:middle], length - header_len)
                    position = self._take_part(data, middle, part)
                break
            position = end
            if flags & frames.SHARED or kind >= frames.PART:
                if kind == frames.PART:
                    part = self._part_begins(call_id, data[start:middle], length - header_len)
                    self._take_part(data, middle, part)
                else:
                    self._special(kind, flags, call_id, data[start:middle], data[middle:end])
            else:
                self.frame_received(kind, flags, call_id, data[start:middle], data[middle:end])
        if position < size:
            self._pending = data[position:] if position else data

    def _special(self, kind: int, flags: int, call_id: int, header: bytes, payload: bytes) -> None:
        if kind == frames.RELEASE:
            for segment_id in _release_decode(payload):
                segment = self._lent.pop(segment_id, None)
                if segment is not None and self.shared is not None:
                    self.shared.pool.give_back(segment)
        elif kind == frames.PART_CREDIT:
            self._part_window += CREDIT_BODY.unpack(payload)[0]
            if self._turns:
                self._write_bulk()
        elif kind == frames.PING:
            self.send(frames.PONG, 0, 0)
        elif flags & frames.SHARED and kind < frames.PART:
            self.frame_received(kind, flags & ~frames.SHARED, call_id, header, self._mapped(payload))
        else:
            self.frame_received(kind, flags, call_id, header, payload)

    def _mapped(self, payload: bytes) -> memoryview:
        if self.shared is None:
            raise ProtocolViolation("shared memory on a connection that has none")
        try:
            segment_id, name, size = _shared_decode(payload)
            return map_segment(self.shared.folder, name, size, lambda: self._release(segment_id))
        except FileNotFoundError as error:
            # The end of the connection is on its way: what a process has lent is removed when it is gone.
            raise ConnectionLost("the peer ended before its shared segment was mapped") from error
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise ProtocolViolation(f"a shared segment cannot be mapped: {error}") from error

    def _release(self, segment_id: int) -> None:
        """Called by the garbage collector, perhaps on another thread: only takes a note."""
        self._released.append(segment_id)
        if not self._releasing:
            self._releasing = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                if threading.get_ident() == self._thread:
                    self.loop.call_soon(self._send_released)
                else:
                    self.loop.call_soon_threadsafe(self._send_released)

    def _send_released(self) -> None:
        # First the flag, then the queue: what is added meanwhile is either seen here or asks for another turn.
        self._releasing = False
        ids = []
        while self._released:
            ids.append(self._released.popleft())
        if ids:
            self.send(frames.RELEASE, 0, 0, b"", msgspec.msgpack.encode(ids))

    def _part_begins(self, call_id: int, description: bytes, length: int) -> Part:
        """What comes next are `length` bytes of a frame in parts."""
        if description:
            assembly = Assembly.described(description)
            if self.wanted(assembly.kind, call_id, assembly.flags):
                self._assemblies[call_id] = assembly
            else:
                self._assemblies.pop(call_id, None)
        return Part(call_id, length)

    def _take_part(self, data: bytes, position: int, part: Part) -> int:
        """Take what is there of a part from `position` on; returns where it ends."""
        end = min(len(data), position + part.left)
        taken = end - position
        part.left -= taken
        self._part = part if part.left else None
        self._part_taken += taken
        if self._part_taken >= frames.PART_WINDOW // 4:
            self.send(frames.PART_CREDIT, 0, 0, b"", CREDIT_BODY.pack(self._part_taken))
            self._part_taken = 0
        # None: of a frame that nobody here waits for (any more).
        assembly = self._assemblies.get(part.call_id)
        if assembly is not None and assembly.add(memoryview(data)[position:end]):
            del self._assemblies[part.call_id]
            self.frame_received(assembly.kind, assembly.flags, part.call_id, assembly.header, assembly.payload)
        return end

    # The end.

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        tcp.end(self.transport, self.loop)
        self._drained.set()
        self._out.clear()
        self._bulk.clear()
        self._turns.clear()
        self._assemblies.clear()
        if self.shared is not None:
            for segment in self._lent.values():
                # Not used again: the peer may still look into it.
                self.shared.pool.discard(segment)
        self._lent.clear()
        self.lost(ConnectionLost(f"the connection was lost{f': {exc}' if exc else ''}"))

    def close(self) -> None:
        """Close after what has been written has left."""
        if not self.closed and self.transport is not None:
            self._flush()
            if self._turns:
                self._closing = True
            else:
                self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        if not self.closed and self.transport is not None:
            self.transport.abort()

    def _peer(self) -> str:
        peer = self.transport.get_extra_info("peername") if self.transport is not None else None
        return str(peer) if peer else "a Unix socket"
