"""The last resort: a process that outlives a root killed without warning, and then ends and removes what is left.

The system ends the root's children with it, but not what user code had started in replicas (engines for inference start
workers), and it does not remove files. The guardian shares the root's memory, holds next to none of its own, and does
nothing until the pipe from the root ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from headrace.engine import orphans, prctl, session


class Guardian:
    """The root's side of it.

    Args:
        folder: the session folder, removed after the root's sudden death.
        close_root: closes, in the guardian, what the root has open.
    """

    def __init__(self, folder: Path, close_root: Callable[[], None]) -> None:
        its, self._ours = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                try:
                    # Signals stay blocked: nothing but SIGKILL shall end it before the root does.
                    os.setpgid(0, 0)
                    os.close(self._ours)
                    close_root()
                    prctl.name_process("headrace:guard")
                    _guard(its, folder)
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(its)

    def started(self, pid: int) -> None:
        """Take the process group `pid` under guard."""
        self._tell(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Close the root's end of the pipe."""
        os.close(self._ours)

    def dismiss(self) -> None:
        """End it: the root ends everything by itself."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # somebody killed it: then there is no last resort
            os.write(self._ours, line.encode())


def _guard(pipe: int, folder: Path) -> None:
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
    orphans.end_of_session(folder.name)
    session.remove(folder)
