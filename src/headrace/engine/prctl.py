"""What only Linux offers to processes that belong together. Elsewhere these do nothing and say so."""

from __future__ import annotations

import ctypes
import sys

_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, argument: int | bytes) -> bool:
    if _libc is None:
        return False
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    return bool(_libc.prctl(option, value, 0, 0, 0) == 0)


def die_with_parent(signal: int) -> bool:
    """Have the system send `signal` to this process when its parent ends. False where that is not possible."""
    return _prctl(_SET_PDEATHSIG, signal)


def adopt_orphans() -> bool:
    """Make this process the parent of every descendant whose parent ends. False where that is not possible."""
    return _prctl(_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Set the name that `top` and `ps -o comm` show; the first 15 bytes of it."""
    _prctl(_SET_NAME, name.encode()[:15])
