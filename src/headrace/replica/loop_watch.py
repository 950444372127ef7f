"""Warns of user code that blocks the event loop, and names its line.

A thread looks at the loop from outside, a few times per second while there are requests, so that requests pay nothing
for it: it has the loop set a flag, and where the flag is not set by the threshold it looks at what the loop's thread is
at. A block that is hardly longer than the threshold may be missed, and so may the first one after a time without
requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from headrace.replica.blocking_code import Line, line_at_work

logger = logging.getLogger("headrace.replica")

THRESHOLD_VARIABLE = "HEADRACE_LOOP_BLOCKED_WARNING_S"
DEFAULT_THRESHOLD_S = 0.5
"""What the controller calls blocked, too."""

IDLE_LOOK_S, LONGEST_IDLE_LOOK_S = 1.0, 8.0
"""While there are no requests, doubled each time: two hundred idle replicas must not keep a processor awake."""

_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.02, 0.25

_WORKING = 0.05
"""Of one CPU: a process that takes more works."""

SAME_LINE_AGAIN_S = 600.0
_LINES_KEPT = 1000


class Work(Protocol):
    """What tells whether there are requests. `worked_s` grows with each that is done."""

    @property
    def ongoing(self) -> int: ...
    @property
    def worked_s(self) -> float: ...
    @property
    def package(self) -> str | None: ...


class Blocks:
    """What is to be said of blocks: of each line once in a while, and how long it was in the end.

    Args:
        say: takes a text for the log.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told_at: dict[tuple[str, int], float] = {}
        self._untold: dict[tuple[str, int], int] = {}
        self._current: tuple[Line, float] | None = None

    def found(self, line: Line, blocked_s: float, now: float) -> None:
        """The loop has been blocked for `blocked_s` and still is, at `line`. Called once per block."""
        key = (line.file, line.number)
        told_at = self._told_at.get(key)
        if told_at is not None and now - told_at < SAME_LINE_AGAIN_S:
            self._untold[key] = self._untold.get(key, 0) + 1
            return
        if told_at is None and len(self._told_at) >= _LINES_KEPT:
            return
        self._told_at[key] = now
        self._current = (line, blocked_s)
        times = self._untold.pop(key, 0)
        again = f" It has happened {times} more times since the last warning." if times else ""
        advice = (
            "large values take their time; pass references to them, or smaller ones"
            if line.ours
            else "make the method synchronous (it then runs in a thread), or await"
        )
        self._say(
            f"the event loop has been blocked for {blocked_s:.1f} s by {line}: other requests of this replica wait; "
            f"{advice}.{again}"
        )

    def ended(self, blocked_s: float) -> None:
        """The block that was found last is over."""
        if self._current is not None and blocked_s >= 2 * self._current[1]:
            line = self._current[0]
            self._say(f"the event loop turns again after {blocked_s:.1f} s; {line.file}:{line.number} had blocked it")
        self._current = None


class LoopWatch:
    """
    Args:
        loop: that is watched.
        thread: `threading.get_ident()` of the thread that it runs on.
        work: tells whether there are requests.
        threshold_s: who blocks the loop for longer is warned of; seconds.
        say: takes the warnings; called on the thread that watches.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: int,
        work: Work,
        threshold_s: float,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._loop = loop
        self._thread = thread
        self._work = work
        self._threshold_s = threshold_s
        self._look_s = min(max(threshold_s / 2, _SHORTEST_LOOK_S), _LONGEST_LOOK_S)
        self._blocks = Blocks(say if say is not None else _Log().say)
        self._asked_at: float | None = None
        self._turned_at: float | None = None
        self._reported = False
        self._worked_s = 0.0
        self._idle_look_s = IDLE_LOOK_S

    async def watch(self) -> None:
        """Look until cancelled, on an event loop of another thread."""
        try:
            await self._watch()
        except Exception:  # a mistake of ours, which must cost nothing but the warnings
            logger.exception("code that blocks the event loop is no longer warned of")

    async def _watch(self) -> None:
        planned, cpu_s = time.monotonic(), time.process_time()
        while True:
            now = time.monotonic()
            late_s, worked_s = now - planned, time.process_time() - cpu_s
            cpu_s += worked_s
            if late_s < self._threshold_s:
                self._look(now)
            else:
                self._look_late(now, late_s, worked_s)
            delay_s = self._delay_s()
            planned = now + delay_s
            await asyncio.sleep(delay_s)

    def _delay_s(self) -> float:
        """Until the next look; soon where there are requests, or were since the last one."""
        before, self._worked_s = self._worked_s, self._work.worked_s
        if self._work.ongoing > 0 or self._worked_s != before:
            self._idle_look_s = IDLE_LOOK_S
            return self._look_s
        delay_s, self._idle_look_s = self._idle_look_s, min(2 * self._idle_look_s, LONGEST_IDLE_LOOK_S)
        return delay_s

    def _look(self, now: float) -> None:
        if self._asked_at is not None and self._turned_at is None:
            blocked_s = now - self._asked_at
            if blocked_s >= self._threshold_s and not self._reported:
                line = self._line()
                if line is not None:
                    self._reported = True
                    self._blocks.found(line, blocked_s, now)
            return
        if self._reported and self._asked_at is not None and self._turned_at is not None:
            self._blocks.ended(self._turned_at - self._asked_at)
        self._reported = False
        self._asked_at = self._turned_at = None
        if self._work.ongoing > 0:
            self._asked_at = now
            try:
                self._loop.call_soon_threadsafe(self._turned, now)
            except RuntimeError:  # the loop is closed
                self._asked_at = None

    def _look_late(self, now: float, late_s: float, worked_s: float) -> None:
        """This thread has not run either. Where the process has worked meanwhile, code in C kept the interpreter's
        lock; its thread has just given it to this one, and is still at that line. Where it has not, it was stopped, or
        the machine had no time for it, and nobody in it is to blame."""
        if worked_s > _WORKING * late_s and not self._reported and self._work.ongoing > 0:
            line = self._line()
            if line is not None and not line.ours:
                self._blocks.found(line, late_s, now)
                self._blocks.ended(late_s)
        self._asked_at = self._turned_at = None
        self._reported = False

    def _line(self) -> Line | None:
        return line_at_work(sys._current_frames().get(self._thread), self._work.package)

    def _turned(self, asked_at: float) -> None:
        if asked_at == self._asked_at:
            self._turned_at = time.monotonic()


class _Log:
    """Logs from a thread of its own: what blocks the loop may be that the log's reader takes nothing, and who tells
    the controller how this replica does must not wait for that too."""

    def __init__(self) -> None:
        self._writing: threading.Thread | None = None

    def say(self, text: str) -> None:
        if self._writing is None or not self._writing.is_alive():
            self._writing = threading.Thread(target=logger.warning, args=("%s", text), daemon=True)
            self._writing.start()


def warning_threshold_s() -> float | None:
    """For how long the event loop may be blocked before it is warned of, seconds; None for no warnings."""
    written = os.environ.get(THRESHOLD_VARIABLE, "").strip()
    if not written:
        return DEFAULT_THRESHOLD_S
    try:
        threshold_s = float(written)
    except ValueError:
        threshold_s = -1.0
    if threshold_s == 0:
        return None
    if not 0 < threshold_s < float("inf"):
        logger.warning(
            "%s: must be a number of seconds, or 0 for no warnings, not '%s'; %g is taken",
            THRESHOLD_VARIABLE,
            written,
            DEFAULT_THRESHOLD_S,
        )
        return DEFAULT_THRESHOLD_S
    return threshold_s
