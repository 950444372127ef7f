"""What every thread and every asyncio task of this process is at: files, lines and names of functions, never values."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

MAX_FRAMES = 200
"""Of one stack: a recursion's innermost frames are what tells."""


class StackFrame(msgspec.Struct, frozen=True):
    """`function`: with the class that it is in, as Python names it."""

    file: str
    line: int
    function: str


class ThreadStack(msgspec.Struct, kw_only=True):
    """One thread. `id`: the system's number of it, None if it has ended meanwhile. `frames`: the innermost last."""

    name: str
    id: int | None
    daemon: bool
    frames: list[StackFrame]


class TaskStack(msgspec.Struct, kw_only=True):
    """Tasks that are at the same place.

    Attributes:
        names: of a few of them.
        count: how many there are.
        frames: the coroutines that wait for each other, the innermost last.
        waits_for: what the innermost waits for; empty for the task that runs now, whose thread has its frames.
    """

    names: list[str]
    count: int
    frames: list[StackFrame]
    waits_for: str


class ProcessStacks(msgspec.Struct, kw_only=True):
    """
    Attributes:
        python: the interpreter's version.
        headrace: the folder of Headrace's own code there, by which a reader can tell it from the user's.
    """

    pid: int
    python: str
    headrace: str
    threads: list[ThreadStack]
    tasks: list[TaskStack]


_NAMES_TOLD = 3
_HEADRACE = f"{Path(__file__).parents[1]}{os.sep}"


def process_stacks(loop: asyncio.AbstractEventLoop | None = None) -> ProcessStacks:
    """All threads of this process, and the tasks of `loop`. May be called on any thread, whatever the loop does."""
    return ProcessStacks(
        pid=os.getpid(),
        python=platform.python_version(),
        headrace=_HEADRACE,
        threads=list(_threads()),
        tasks=[] if loop is None else _tasks(loop),
    )


def _threads() -> Iterator[ThreadStack]:
    """The main thread first, then as they were started."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    frames = sys._current_frames()
    main = threading.main_thread().ident
    for ident in sorted(frames, key=lambda ident: (ident != main, getattr(known.get(ident), "native_id", None) or 0)):
        thread = known.get(ident)
        yield ThreadStack(
            name=thread.name if thread is not None else "(not started by Python)",
            # What `threading` says of the main thread is that of the process which this one was forked from.
            id=os.getpid() if ident == main else thread.native_id if thread is not None else None,
            daemon=thread.daemon if thread is not None else False,
            frames=frames_of(frames[ident]),
        )


def frames_of(frame: FrameType | None) -> list[StackFrame]:
    """A frame with those that called it, the innermost last."""
    frames: list[StackFrame] = []
    while frame is not None and len(frames) < MAX_FRAMES:
        frames.append(_frame(frame))
        frame = frame.f_back
    return frames[::-1]


def _frame(frame: FrameType) -> StackFrame:
    return StackFrame(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname)


def _tasks(loop: asyncio.AbstractEventLoop) -> list[TaskStack]:
    groups: dict[tuple[tuple[StackFrame, ...], str], TaskStack] = {}
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        frames, waits_for = _of_task(task)
        group = groups.setdefault(
            (tuple(frames), waits_for), TaskStack(names=[], count=0, frames=frames, waits_for=waits_for)
        )
        group.count += 1
        if len(group.names) < _NAMES_TOLD:
            group.names.append(task.get_name())
    return sorted(groups.values(), key=lambda group: -group.count)


def _of_task(task: asyncio.Task[Any]) -> tuple[list[StackFrame], str]:
    frames: list[StackFrame] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(frames) < MAX_FRAMES:
        frame, further = _suspended(awaited)
        if frame is None:
            break
        frames.append(_frame(frame))
        awaited = further
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None:
        return frames, _described(awaited)
    return frames, f"task {waiter.get_name()}" if isinstance(waiter, asyncio.Task) else _described(waiter)


def _suspended(awaited: Any) -> tuple[FrameType | None, Any]:
    """Where a coroutine, an async generator or a generator is, and what it waits for."""
    for frame, further in (("cr_frame", "cr_await"), ("ag_frame", "ag_await"), ("gi_frame", "gi_yieldfrom")):
        if hasattr(awaited, frame):
            return getattr(awaited, frame), getattr(awaited, further)
    return None, None


def _described(awaited: Any) -> str:
    """The kind of a thing, not its `repr`, which may hold a value of the user's."""
    if awaited is None:
        return ""
    kind = type(awaited)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__.lstrip('_')}.{kind.__qualname__}"
