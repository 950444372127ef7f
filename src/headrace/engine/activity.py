"""What the system tells of a process of this machine, though the process itself says nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from headrace.engine.process import Activity


def activity_of(pid: int) -> Activity | None:
    """Whether a process is stopped, and the CPU time that it has taken: from `/proc/<pid>/stat`.

    None if there is no such process, or the system has no `/proc`.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text()
        # The name before it may hold spaces and parentheses.
        state, *fields = text[text.rindex(")") + 2 :].split()
        ticks = int(fields[10]) + int(fields[11])
        return Activity(stopped=state == "T", cpu_s=ticks / os.sysconf("SC_CLK_TCK"))
    return None
