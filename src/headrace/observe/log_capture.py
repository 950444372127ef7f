"""What a process prints, line by line: put in the place of `sys.stdout` and `sys.stderr`.

It sees what Python code writes to them. Native code and child processes write to the descriptors below, past it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TextIO

_LONGEST_LINE = 65_536


class CapturedStream:
    """A text stream whose lines go to `on_line`; all else is the `original`'s.

    A line is shown when it is complete, whole, whatever other threads print. Of a line that was written over itself
    with carriage returns, as progress bars are, the last state is shown. Blank lines are left out.
    """

    def __init__(self, original: TextIO, on_line: Callable[[str], None]) -> None:
        self.original = original
        self._on_line = on_line
        self._begun: dict[int, str] = {}
        self._showing: set[int] = set()
        self._finished = False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        thread = threading.get_ident()
        if self._finished or thread in self._showing:  # what shows lines has something to say itself
            return self.original.write(text)
        *lines, rest = (self._begun.pop(thread, "") + text).split("\n")
        if rest:
            if "\r" in rest:
                rest = _last_state(rest) + ("\r" if rest.endswith("\r") else "")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
            else:
                self._begun[thread] = rest
        if lines:
            self._show(thread, lines)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Show what was begun and not ended. What comes later, as from handlers of user code, is the original's."""
        self._finished = True
        begun = list(self._begun.values())
        self._begun.clear()
        self._show(threading.get_ident(), begun)

    def _show(self, thread: int, lines: list[str]) -> None:
        self._showing.add(thread)
        try:
            for line in lines:
                shown = _last_state(line)
                if shown and not shown.isspace():
                    self._on_line(shown)
        finally:
            self._showing.discard(thread)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def _last_state(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]
