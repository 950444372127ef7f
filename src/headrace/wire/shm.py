"""Large payloads between processes of one machine: written once into shared memory, mapped by the receiver.

A sender owns `Segments`, files in a tmpfs folder (`/dev/shm/headrace-<session>`), and lends one per large payload. The
receiver maps it privately (copy-on-write, so that arrays are writable and nobody sees the writes) and keeps it mapped
for as long as any object still looks into it; then a `RELEASE` frame gives the segment back to its owner, who uses
it again. Segments lent over a connection are let go when it ends. The root removes the folder when the
instance ends, so nothing outlives it even if every process is killed.
"""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

MIN_PAYLOAD = 256 * 1024
"""Payloads from this many bytes on go through shared memory."""

_GRANULE = 256 * 1024
_MAX_IDLE_BYTES = 512 * 1024 * 1024
_MAX_TOTAL_BYTES = 4 * 1024 * 1024 * 1024


class Segment:
    __slots__ = ("id", "map", "name", "size")

    def __init__(self, id: int, name: str, map: mmap.mmap, size: int) -> None:
        self.id = id
        self.name = name
        self.map = map
        self.size = size


def _rounded(size: int) -> int:
    """Sizes in steps of an eighth of the next power of two, so that payloads of about one size share segments."""
    step = max(_GRANULE, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


class SegmentPool:
    """The segments that this process owns. Not thread-safe: used from the connection's event loop only.

    Args:
        folder: where the files go; must be on a memory file system, private to the user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: dict[int, list[Segment]] = {}
        self._idle_bytes = 0
        self._total_bytes = 0
        self._next = 1
        self._pid = os.getpid()

    def write(self, buffers: Sequence[bytes | memoryview], size: int) -> Segment | None:
        """Copy `buffers` (together `size` bytes) into a segment; None where there is no room for it."""
        segment = self._take(_rounded(size))
        if segment is None:
            return None
        position = 0
        for buffer in buffers:
            end = position + len(buffer)
            segment.map[position:end] = buffer
            position = end
        return segment

    def give_back(self, segment: Segment) -> None:
        if self._idle_bytes + segment.size > _MAX_IDLE_BYTES:
            self.discard(segment)
            return
        self._idle.setdefault(segment.size, []).append(segment)
        self._idle_bytes += segment.size

    def close(self) -> None:
        for segments in self._idle.values():
            for segment in segments:
                self.discard(segment)
        self._idle.clear()
        self._idle_bytes = 0

    def _take(self, size: int) -> Segment | None:
        idle = self._idle.get(size)
        if idle:
            self._idle_bytes -= size
            return idle.pop()
        if self._total_bytes + size > _MAX_TOTAL_BYTES:
            return None
        name = f"{self._pid}-{self._next}"
        path = self._folder / name
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            # Reserves the pages: without it a full tmpfs would show as SIGBUS on the first write.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
            else:
                os.ftruncate(fd, size)
            mapped = mmap.mmap(fd, size)
        except OSError:
            path.unlink(missing_ok=True)
            return None
        finally:
            os.close(fd)
        segment = Segment(self._next, name, mapped, size)
        self._next += 1
        self._total_bytes += size
        return segment

    def discard(self, segment: Segment) -> None:
        """Let go of a segment; a peer's mapping of it stays valid."""
        self._total_bytes -= segment.size
        segment.map.close()
        (self._folder / segment.name).unlink(missing_ok=True)


def map_segment(folder: Path, name: str, size: int, released: Callable[[], None]) -> memoryview:
    """Map `size` bytes of a peer's segment; `released` is called when nothing looks into them any more.

    `released` may be called from any thread, and from a garbage collection: it must not do more than take a note.

    Raises:
        FileNotFoundError: the owner is gone and its instance has been cleaned up.
    """
    if "/" in name:
        raise ValueError(f"segment name {name!r} is a path")
    fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mapped = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    weakref.finalize(mapped, released).atexit = False
    return memoryview(mapped)


def shared_folder(session: str) -> Path | None:
    """The folder for an instance's segments, made if need be; None where this machine has no memory file system, or
    where the folder is somebody else's."""
    folder = Path("/dev/shm") / f"headrace-{session}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = status.st_uid == os.getuid() and stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return folder if private else None
