"""Single keys from a terminal, without Enter."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator

try:
    import termios
    import tty
except ImportError:  # not on Windows
    pass


class Keys:
    """Reads keys where standard input is a terminal, and just waits where it is not."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> str:
        """The key that is pressed within so many seconds; empty if none is."""
        if self._descriptor is None:
            time.sleep(max(0.0, seconds))
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, seconds))
        if not ready:
            return ""
        pressed = os.read(self._descriptor, 32)  # a cursor key is several bytes
        if not pressed:  # the terminal is gone
            self._descriptor = None
        return pressed.decode(errors="replace")


@contextlib.contextmanager
def keys() -> Iterator[Keys]:
    """The terminal's keys, one by one and not echoed; afterwards it is as it was."""
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
