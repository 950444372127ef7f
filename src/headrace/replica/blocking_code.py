"""Which line of user code a thread is at, as far as a stack tells."""

from __future__ import annotations

import linecache
import os
import sysconfig
from dataclasses import dataclass
from types import FrameType

from headrace.replica.user_traceback import is_ours

_STDLIB = tuple(
    f"{folder}{os.sep}" for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} if folder
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_RUNNERS = (os.path.join("asyncio", "runners.py"), os.path.join("uvloop", "__init__.py"))
"""What is below these runs the event loop, and is not run by it."""

_MAX_SOURCE = 60


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code that runs.

    Attributes:
        source: its text, shortened; empty if there is no telling.
        within: what it has called that is written in Python, innermost; None if it is at work itself, or in C.
        ours: there is no code of the user's or of a library on the stack, only Headrace's.
    """

    file: str
    number: int
    function: str
    source: str
    within: str | None
    ours: bool

    def __str__(self) -> str:
        details = ", ".join(filter(None, (self.source, f"now in {self.within}" if self.within else "")))
        return f"{self.file}:{self.number} in {self.function}" + (f" ({details})" if details else "")


def line_at_work(frame: FrameType | None, package: str | None = None) -> Line | None:
    """The innermost line of user code on the stack of an event loop's thread; without one, of a library; without that,
    of Headrace. None if the loop itself waits.

    Args:
        frame: the innermost one.
        package: name of a package or module that is the user's though it is installed among the libraries.
    """
    innermost, best, best_rank = frame, None, 0
    while frame is not None and not frame.f_code.co_filename.endswith(_RUNNERS):
        rank = _rank(frame, package)
        if rank > best_rank:
            best, best_rank = frame, rank
        frame = frame.f_back
    if best is None or innermost is None:
        return None
    code = best.f_code
    return Line(
        file=code.co_filename,
        number=best.f_lineno or 0,
        function=code.co_qualname,
        source=_shortened(linecache.getline(code.co_filename, best.f_lineno or 0, best.f_globals).strip()),
        within=None if innermost is best else _place(innermost),
        ours=best_rank == _OURS,
    )


_OURS, _LIBRARY, _USER = 1, 2, 3


def _rank(frame: FrameType, package: str | None) -> int:
    """How much a frame tells a user of what their code does; 0 for nothing."""
    file = frame.f_code.co_filename
    if is_ours(file):
        return _OURS
    if package is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return _USER
    if any(part in file for part in _INSTALLED):
        return _LIBRARY
    if file.startswith(_STDLIB) or file.startswith("<frozen "):
        return 0
    return _USER


def _place(frame: FrameType) -> str:
    file = os.sep.join(frame.f_code.co_filename.split(os.sep)[-2:])
    return f"{file}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SOURCE else f"{text[:_MAX_SOURCE]}…"
