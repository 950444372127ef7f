"""Python values to payloads and back, arrays out of band; and payloads through shared memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.micro.timing import Case
from headrace.wire import codec
from headrace.wire.shm import SegmentPool, map_segment

_SHARED = Path("/dev/shm")


def _arrays() -> Iterator[tuple[str, Any, int]]:
    for name, size in (("1 KB", 10**3), ("1 MB", 10**6), ("10 MB", 10**7)):
        yield f"array of {name}", np.ones(size, np.uint8), size


def _payload(value: object) -> tuple[int, bytes]:
    flags, parts = codec.encode(value)
    return flags, parts if isinstance(parts, bytes) else b"".join(parts)


def _decode(value: object) -> Callable[[], object]:
    flags, payload = _payload(value)
    # As it arrives: small payloads as bytes out of a frame, large ones as a view of assembled or mapped memory.
    data: bytes | memoryview = payload if len(payload) < 2**18 else memoryview(bytearray(payload))
    return lambda: codec.decode(flags, data)


def codec_cases() -> list[Case]:
    """Call arguments as they are common: text, a small record, a long list, arrays."""
    values: list[tuple[str, Any]] = [
        ("((), {})", ((), {})),
        ("text of 16 characters", (("sixteen letters!",), {})),
        ("record of 6 fields", {"id": 7, "name": "n", "score": 0.5, "tags": ["a", "b"], "ok": True, "at": None}),
        ("list of 1,000 floats", [float(number) for number in range(1000)]),
        *((name, value) for name, value, _ in _arrays()),
    ]
    # No rate: the bytes of an array are not moved by either.
    encode = [Case("value to payload", name, lambda value=value: codec.encode(value)) for name, value in values]  # type: ignore[misc]
    return encode + [Case("payload to value", name, _decode(value)) for name, value in values]


@contextmanager
def shared_memory_cases() -> Iterator[list[Case]]:
    """A payload written into a segment, mapped, decoded and let go, as both ends of a call do it."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=_SHARED) as name:
        folder = Path(name)
        pool = SegmentPool(folder)
        try:
            yield [
                Case("through shared memory", name, _round_trip(pool, folder, value), 1, size)
                for name, value, size in _arrays()
                if size >= 10**6
            ]
        finally:
            pool.close()


def _round_trip(pool: SegmentPool, folder: Path, value: object) -> Callable[[], object]:
    def call() -> None:
        flags, parts = codec.encode(value)
        assert not isinstance(parts, bytes)
        size = sum(len(part) for part in parts)
        segment = pool.write(parts, size)
        assert segment is not None
        codec.decode(flags, map_segment(folder, segment.name, size, lambda: None))
        pool.give_back(segment)

    return call
