"""Processes by pid and time of start, so that a pid which the system has given away again is not mistaken."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def started(pid: int) -> int:
    """When a process was started, in clock ticks since its machine's start; 0 if there is none."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text()
        # The name before it may hold spaces and parentheses.
        return int(text[text.rindex(")") + 2 :].split()[19])
    return 0


def is_same(pid: int, when: int) -> bool:
    """Whether this process is (still) the one that was started then."""
    return when != 0 and started(pid) == when


def send_signal(pid: int, when: int, number: int) -> bool:
    """Send a signal; False if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if is_same(pid, when):
                signal.pidfd_send_signal(descriptor, number)
                return True
        finally:
            os.close(descriptor)
    return False
