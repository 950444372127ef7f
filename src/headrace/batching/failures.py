"""One failure, many callers: an exception object for each, so that their tracebacks do not pile up in one."""

from __future__ import annotations

import copy
from pathlib import Path
from types import TracebackType

_OUR_FRAMES = str(Path(__file__).parent)


def own_copies(error: BaseException, count: int) -> list[BaseException]:
    """The error itself and `count - 1` copies of it, equal in type, arguments, attributes, cause and traceback.

    A traceback begins in the user's code. An exception that cannot be copied is shared.
    """
    traceback = _without_our_frames(error.__traceback__)
    error.__traceback__ = traceback
    return [error, *(_copy_of(error) for _ in range(count - 1))]


def _copy_of(error: BaseException) -> BaseException:
    twin = _constructed(error)
    if twin is None:
        return error
    # A constructor of the user's may have made other arguments of those that it was given.
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    twin.__traceback__ = error.__traceback__
    return twin


def _constructed(error: BaseException) -> BaseException | None:
    """A new exception of the same type; None if the type can be made neither by pickle's rules nor bare."""
    kind = type(error)
    try:
        twin = copy.copy(error)
        if type(twin) is kind and twin is not error:
            return twin
    except Exception:
        # `__init__` wants other arguments than `args`; without it all that is lost is what only C code sees.
        pass
    try:
        return kind.__new__(kind, *error.args)
    except Exception:
        return None


def _without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_OUR_FRAMES):
        traceback = traceback.tb_next
    return traceback
