"""The server's processes: which they are, what CPU and memory they use, and how they are ended for certain.

The suite makes itself the reaper of orphans (`PR_SET_CHILD_SUBREAPER`), so that every process that a server starts,
however it detaches itself, stays a descendant of the suite. wrk never runs while processes are listed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies. Raises OSError if it cannot."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def go_first() -> None:
    """Let the scheduler run this process before the servers that it measures, where that is allowed.

    Linux shares the processor among sessions ("autogroup"), and a server is one of its own: a client that is waiting
    for its turn sees delays in lumps that are not the server's.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-20")


def prepare_child() -> None:
    """To be called in a new child, before it runs its program.

    SIGTERM arrives when the suite itself is killed. Ctrl-C works even where the suite was started in the background of
    a shell, which makes it and its children ignore it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def descendants() -> list[int]:
    """Process ids of all living descendants of the suite."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return alive


def cpu_seconds_of_stat(stat: str) -> float:
    """User and system time out of a line of `/proc/<pid>/stat`, with that of children that were waited for.

    Counting the latter keeps the sum over a process tree steady when a process in it ends.
    """
    fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold blanks
    return sum(int(value) for value in fields[11:15]) / _TICKS_PER_S


def cpu_seconds() -> float:
    """CPU time that all descendants have used, seconds."""
    total = 0.0
    for pid in descendants():
        try:
            total += cpu_seconds_of_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def machine_busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything, seconds, summed over its cores."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def pss_of_rollup(rollup: str) -> int:
    """Bytes on the `Pss:` line of a `smaps_rollup` file."""
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no Pss: line")


def memory_bytes() -> int:
    """Sum of the proportional set sizes of all descendants: a page that n of them share counts one n-th in each."""
    total = 0
    for pid in descendants():
        try:
            total += pss_of_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue
    return total


def end_all(leader: subprocess.Popen[bytes], patience_s: float = 10.0) -> int:
    """End a server and all that it started: Ctrl-C, then SIGTERM, then SIGKILL to whatever remains.

    Args:
        leader: the process that was started.
        patience_s: how long to wait after Ctrl-C and again after SIGTERM, seconds.

    Returns: the number of processes that outlived their leader and had to be killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if leader.poll() is not None:
            break
        leader.send_signal(number)
        try:
            leader.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    if leader.poll() is None:
        leader.kill()
        leader.wait()
    # Children that end themselves when their parent is gone get a moment to do so.
    left = _wait_for_none(2.0)
    outlived = len(left)
    deadline = time.monotonic() + 10.0
    while left and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        left = _wait_for_none(0.2)
    _reap()
    return outlived


def _wait_for_none(timeout_s: float) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while left := descendants():
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)  # polling: nothing tells of the end of processes that are not our own children
    return []


def _reap() -> None:
    """Collect the orphans that were handed to us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
