"""Python values to buffers and back.

Values are pickled with protocol 5 (PEP 574): arrays stay outside the pickle as buffers, so their bytes are copied once,
into shared memory or the socket, and not at all by the receiver. cloudpickle takes over for what pickle cannot do
(lambdas, local classes) and for anything of `__main__`, which is another module in another process.

A payload with out-of-band buffers is laid out as::

    u32 number of buffers, u64 length of the pickle, u64 length of each buffer; pad to 64
    pickle; pad to 64
    buffer; pad to 64 …

so that every array is aligned for vector instructions.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from headrace.exceptions import SerializationError
from headrace.wire import frames

ALIGN = 64
_PAD = bytes(ALIGN)
_PICKLE_ERRORS = (pickle.PicklingError, AttributeError, TypeError, RecursionError)

Buffers = list["bytes | memoryview"]


def encode(value: Any) -> tuple[int, bytes | Buffers]:
    """Flags for the frame, and the payload: bytes, or a list of buffers that make it up.

    Raises:
        SerializationError: neither pickle nor cloudpickle can do it.
    """
    out: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, 5, buffer_callback=out.append)
        if b"__main__" in data:
            out.clear()
            data = _by_value(value, out.append)
    except _PICKLE_ERRORS:
        out.clear()
        data = _by_value(value, out.append)
    if not out:
        return frames.PICKLED, data
    return frames.PICKLED | frames.BUFFERS, _layout(data, out)


def _by_value(value: Any, callback: Callable[[pickle.PickleBuffer], Any]) -> bytes:
    import cloudpickle  # type: ignore[import-untyped,unused-ignore]

    try:
        return cloudpickle.dumps(value, 5, buffer_callback=callback)  # type: ignore[no-any-return,unused-ignore]
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(
            f"cannot send a value of type {type(value).__name__} to another process: {error}. "
            f"Pass plain data, arrays or picklable objects"
        ) from error


def _layout(data: bytes, out: list[pickle.PickleBuffer]) -> Buffers:
    views = [buffer.raw() for buffer in out]
    table = struct.pack(f"<IQ{len(views)}Q", len(views), len(data), *(view.nbytes for view in views))
    parts: Buffers = []
    position = 0
    pieces: tuple[bytes | memoryview, ...] = (table, data, *views)
    for part in pieces:
        parts.append(part)
        position += len(part)
        pad = -position % ALIGN
        if pad:
            parts.append(_PAD[:pad])
            position += pad
    return parts


def decode(flags: int, payload: bytes | memoryview) -> Any:
    """The value in a payload. Only for payloads of an authenticated peer: it unpickles."""
    if not flags & frames.BUFFERS:
        return pickle.loads(payload)
    # A copy of `bytes` (at most one frame long) makes arrays writable and aligned; other payloads are so already.
    view = memoryview(bytearray(payload) if isinstance(payload, bytes) else payload)
    (count, size) = struct.unpack_from("<IQ", view)
    lengths = struct.unpack_from(f"<{count}Q", view, 12)
    position = _aligned(12 + 8 * count)
    data = view[position : position + size]
    position = _aligned(position + size)
    buffers = []
    for length in lengths:
        buffers.append(view[position : position + length])
        position = _aligned(position + length)
    return pickle.loads(data, buffers=buffers)


def _aligned(position: int) -> int:
    return position + (-position % ALIGN)
