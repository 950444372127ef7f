"""Values come out of the codec as they went in, by whichever way they travel."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.exceptions import BackPressureError, SerializationError
from headrace.wire import codec, frames
from headrace.wire.connection import SharedMemory
from headrace.wire.shm import map_segment

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner) | st.sets(st.integers())
    ),
    max_leaves=20,
)

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "C order": np.arange(24.0).reshape(2, 3, 4),
    "Fortran order": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "empty": np.empty((0, 5), dtype=np.float32),
    "zero dimensions": np.array(7, dtype=np.int16),
    "strided": np.arange(100)[::3],
    "reversed": np.arange(10)[::-1],
    "transposed slice": np.arange(100).reshape(10, 10)[2:5, 1:7].T,
    "structured": np.array([(1, 2.5, b"ab"), (3, 4.5, b"cd")], dtype=[("a", "i4"), ("b", "f8"), ("c", "S2")]),
    "objects": np.array([{"a": 1}, None, "text"], dtype=object),
    "strings": np.array(["a", "ßé", "長い"]),
    "big-endian": np.arange(5, dtype=">i4"),
    "half": np.arange(9, dtype=np.float16),
    "booleans": np.array([True, False, True]),
    "dates": np.array(["2026-01-01", "NaT"], dtype="datetime64[D]"),
    "large": np.arange(300_000, dtype=np.int64),
}


def flat(payload: bytes | codec.Buffers) -> bytes:
    return payload if isinstance(payload, bytes) else b"".join(bytes(part) for part in payload)


def over_the_socket(value: Any) -> Any:
    flags, payload = codec.encode(value)
    return codec.decode(flags, flat(payload))


def in_parts(value: Any) -> Any:
    flags, payload = codec.encode(value)
    return codec.decode(flags, memoryview(bytearray(flat(payload))))


@settings(max_examples=100)
@given(PLAIN)
def test_plain_values_survive(value: Any) -> None:
    assert over_the_socket(value) == value
    assert in_parts(value) == value


@pytest.mark.parametrize("way", [over_the_socket, in_parts])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_of_all_kinds_survive(array: np.ndarray[Any, Any], way: Callable[[Any], Any]) -> None:
    got = way({"array": array, "again": [array]})
    for other in (got["array"], got["again"][0]):
        assert other.dtype == array.dtype and other.shape == array.shape
        assert np.array_equal(other, array, equal_nan=array.dtype.kind == "M")
    assert got["array"] is got["again"][0]


def test_arrays_are_writable_at_the_receiver_and_no_writes_come_back() -> None:
    array = np.arange(10)
    array.flags.writeable = False
    for way in (over_the_socket, in_parts):
        got = way(np.arange(10))
        got[0] = 99
        assert np.array_equal(way(array), np.arange(10))


def test_contiguous_arrays_stay_out_of_the_pickle() -> None:
    array = np.arange(1000)
    flags, payload = codec.encode([array, array.reshape(10, 100).T])
    assert flags & frames.BUFFERS and isinstance(payload, list)
    assert any(isinstance(part, memoryview) and part.nbytes == array.nbytes for part in payload)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 200), max_size=6))
def test_every_buffer_is_aligned(sizes: list[int]) -> None:
    value = [np.arange(size, dtype=np.uint8) for size in sizes]
    flags, payload = codec.encode(value)
    if isinstance(payload, list):
        position = 0
        views = []
        for part in payload:
            if isinstance(part, memoryview):
                views.append(position)
            position += len(part)
        assert all(position % 64 == 0 for position in views)
    for sent, got in zip(value, codec.decode(flags, flat(payload)), strict=True):
        assert np.array_equal(sent, got)


def test_an_array_keeps_its_segment_mapped_and_nothing_else_does(
    segments: Path, shared: Callable[[], SharedMemory]
) -> None:
    array = np.arange(100_000)
    flags, payload = codec.encode({"array": array})
    assert isinstance(payload, list)
    size = sum(map(len, payload))
    segment = shared().pool.write(payload, size)
    assert segment is not None
    released: list[bool] = []
    got = codec.decode(flags, map_segment(segments, segment.name, size, lambda: released.append(True)))
    part = got["array"][10:20]
    del got
    gc.collect()
    assert not released and np.array_equal(part, np.arange(10, 20))
    part[0] = -1  # writable, and private
    assert array.tobytes() in segment.map[:]
    del part
    gc.collect()
    assert released == [True]


def test_functions_and_classes_that_pickle_cannot_do_travel_by_value() -> None:
    factor = 3
    triple = over_the_socket(lambda x: x * factor)
    assert triple(2) == 6

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    made = over_the_socket(Local(4))
    assert made.x == 4 and type(made).__name__ == "Local"
    assert over_the_socket(functools.partial(lambda x, y: x + y, 1))(2) == 3


SCRIPT = """
import sys, pickle
from headrace.wire import codec
import numpy as np

class Document:
    def __init__(self, text, vector):
        self.text, self.vector = text, vector
    def shout(self):
        return self.text.upper()

def helper(x):
    return x + 1

flags, payload = codec.encode([Document("a", np.arange(5)), helper, {"plain": 1}])
flat = payload if isinstance(payload, bytes) else b"".join(bytes(part) for part in payload)
sys.stdout.buffer.write(bytes([flags]) + flat)
"""


def test_what_a_script_defines_is_known_to_a_process_that_never_saw_the_script() -> None:
    sent = subprocess.run([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, check=True).stdout
    document, helper, plain = codec.decode(sent[0], sent[1:])
    assert document.shout() == "A" and document.vector.tolist() == [0, 1, 2, 3, 4]
    assert helper(1) == 2
    assert plain == {"plain": 1}


class Awkward(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason

    def __reduce__(self) -> Any:
        return _awkward, (self.code, self.reason)


def _awkward(code: int, reason: str) -> Awkward:
    return Awkward(code, reason=reason)


def test_exceptions_survive_with_their_attributes() -> None:
    error = over_the_socket(BackPressureError(3, 2, 429, 1.5))
    assert (error.num_queued_requests, error.max_queued_requests, error.status_code, error.retry_after_s) == (
        3,
        2,
        429,
        1.5,
    )
    assert over_the_socket(ValueError("x", 1)).args == ("x", 1)
    assert over_the_socket(KeyError("k")).args == ("k",)
    awkward = over_the_socket(Awkward(7, reason="because"))
    assert (awkward.code, awkward.reason, str(awkward)) == (7, "because", "7: because")


def test_what_cannot_be_sent_is_named() -> None:
    import threading

    with pytest.raises(SerializationError, match="type dict to another process"):
        codec.encode({"lock": threading.Lock()})
    with pytest.raises(SerializationError, match="generator"):
        codec.encode(i for i in range(3))


def test_a_value_that_nests_too_deep_is_named() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SerializationError, match="list"):
        codec.encode(nested)
    while nested:  # freeing it recursively would be another problem
        nested = nested.pop()
