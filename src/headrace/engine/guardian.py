"""The last resort: a process that outlives a root killed without warning, and then ends and removes what is left.

The system ends the root's children with it, but not what user code had started in replicas (engines for inference start
workers), and it does not remove files. The guardian shares the root's memory, holds next to none of its own, and does
nothing until the pipe from the root ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from headrace.engine import orphans, prctl, session

_LOOK_EVERY_MS = 500


class Guardian:
    """The root's side of it. Made, it can be told things; `start` forks it."""

    def __init__(self) -> None:
        self._its, self._ours = os.pipe()
        self.pid: int | None = None

    def start(self, folder: Path, close_root: Callable[[], None], keeper: int | None = None) -> None:
        """Fork it.

        Args:
            folder: the session folder, removed after the root's sudden death.
            close_root: closes, in the guardian, what the root has open.
            keeper: process under which another root takes the place of one that died; the folder is removed only when
                that has ended too.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    # Signals stay blocked: nothing but SIGKILL shall end it before the root does.
                    os.setpgid(0, 0)
                    pipe = os.dup(self._its)
                    close_root()
                    prctl.name_process("headrace:guard")
                    _guard(pipe, folder, keeper)
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def reaped(self, pid: int) -> None:
        """A process has ended that is none of the instance's own: perhaps the guardian."""
        if pid == self.pid:
            self.pid = None

    def started(self, pid: int) -> None:
        """Take the process group `pid` under guard."""
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Close the pipe, in a child of the root."""
        os.close(self._its)
        os.close(self._ours)

    def dismiss(self) -> None:
        """End it: the root ends everything by itself."""
        if self.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # somebody has just killed it; the next one is told of all
            os.write(self._ours, line.encode())


def _guard(pipe: int, folder: Path, keeper: int | None) -> None:
    groups: set[int] = set()
    with open(pipe) as lines:
        for line in lines:
            if line.startswith("+"):
                groups.add(int(line[1:]))
            else:
                groups.discard(int(line[1:]))
    if not folder.exists():  # the root had time to tidy up
        return
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    if keeper is not None and _has_successor(folder, keeper):
        return
    orphans.end_of_session(folder.name)
    session.remove(folder)


def _has_successor(folder: Path, keeper: int) -> bool:
    """Wait until another root serves in the folder, or until the process that would start it has ended."""
    try:
        ended = os.pidfd_open(keeper)
    except OSError:
        return False
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    while not poll.poll(_LOOK_EVERY_MS):
        if not folder.exists() or session.root_lives(folder):
            return True
    return False
