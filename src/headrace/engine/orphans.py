"""Processes whose parent died, and that came to the root because it adopts orphans. Linux only; elsewhere none do.

What user code starts usually stays in its replica's process group and is ended with it. What left the group is found
here by a mark in its environment, which it got from its replica.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator

_MARK = "HEADRACE_PROCESS"


def mark_descendants(name: str) -> None:
    """Mark what this process will start as its own."""
    os.environ[_MARK] = f"{name}:{os.getpid()}"


def end_descendants(dead: Collection[tuple[str, int]], known: Collection[int]) -> None:
    """Kill the orphans that are marked as started by `dead` processes (name and pid), and what those have started.

    Args:
        known: this process's children that are no orphans.
    """
    marks = {f"{_MARK}={name}:{pid}".encode() for name, pid in dead}
    for pid in _children(os.getpid()):
        if pid not in known and marks & _environment(pid):
            _kill_tree(pid)


def end_all() -> None:
    """Kill every process under this one."""
    for pid in _children(os.getpid()):
        _kill_tree(pid)


def _kill_tree(pid: int) -> None:
    below = list(_children(pid))
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        _kill_tree(child)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                yield from map(int, file.read().split())


def _environment(pid: int) -> set[bytes]:
    """The environment that a process was given when its program was started."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except OSError:
        return set()
