"""Processes whose parent died, and that came to the root because it adopts orphans. Linux only; elsewhere none do.

What user code starts usually stays in its replica's process group and is ended with it. What left the group is found
here by a mark in its environment, which it got from its replica.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Mapping

_MARK = "HEADRACE_PROCESS"


def mark_descendants(session: str) -> None:
    """Mark what this process will start as its own, and as of a session."""
    os.environ[_MARK] = f"{session}:{os.getpid()}"


def without_mark(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that is to outlive this one."""
    return {name: value for name, value in environment.items() if name != _MARK}


def end_descendants(session: str, dead: Collection[int], known: Collection[int]) -> None:
    """Kill the orphans that are marked as started by the processes `dead`, and what those have started.

    Args:
        session: name of the session.
        dead: pids.
        known: this process's children that are no orphans.
    """
    marks = {f"{session}:{pid}" for pid in dead}
    for pid in _children(os.getpid()):
        if pid not in known and _mark(pid) in marks:
            _kill_tree(pid)


def end_of_processes(session: str, dead: Collection[int]) -> None:
    """Kill every process of this user that is marked as started by the processes `dead`, whoever its parent is."""
    marks = {f"{session}:{pid}" for pid in dead}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal() and _mark(int(name)) in marks:
                _kill_tree(int(name))


def end_of_session(session: str) -> None:
    """Kill every process of this user that is marked as of a session, whoever its parent is."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal() and _mark(int(name)).startswith(f"{session}:"):
                _kill_tree(int(name))


def end_all(spared: Collection[int] = ()) -> None:
    """Kill every process under this one, but for those that are `spared`."""
    for pid in children():
        if pid not in spared:
            _kill_tree(pid)


def children() -> list[int]:
    """The processes whose parent this one is, dead ones that it has not waited for among them. Linux only."""
    return list(_children(os.getpid()))


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


def _mark(pid: int) -> str:
    """The mark in the environment that a process was given when its program was started; "" if it has none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:  # another user's, or gone
        return ""
    prefix = f"{_MARK}=".encode()
    return next((os.fsdecode(each[len(prefix) :]) for each in variables if each.startswith(prefix)), "")
