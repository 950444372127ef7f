"""Tracebacks as the user's: without the frames of ours around, between and below the frames of user code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from headrace.exceptions import HeadraceError

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_APPLICATIONS = f"{_OURS}llm{os.sep}"  # user code, as far as a replica is concerned


def user_traceback(error: BaseException) -> str:
    """The traceback of an exception that user code raised, with those that led to it.

    An exception that went through no code of the user's is a mistake of ours, and keeps its frames.
    """
    described = traceback.TracebackException.from_exception(error)
    for each in _chain(described):
        users = [frame for frame in each.stack if not is_ours(frame.filename)]
        if users or (isinstance(each.exc_type, type) and issubclass(each.exc_type, HeadraceError)):
            each.stack = traceback.StackSummary.from_list(users)
    return "".join(described.format()).rstrip()


def _chain(described: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    if described is not None:
        yield described
        yield from _chain(described.__cause__)
        yield from _chain(described.__context__)
        for each in described.exceptions or ():
            yield from _chain(each)


def is_ours(filename: str) -> bool:
    """Whether a file is Headrace's, and no application that comes with it."""
    return filename.startswith(_OURS) and not filename.startswith(_APPLICATIONS)
