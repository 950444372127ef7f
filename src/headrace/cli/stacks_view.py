"""Stacks of threads and asyncio tasks, as people read them: the innermost frame last, as in a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

_DIM = "bright_black"

_LOOP = ("asyncio/runners.py", "uvloop/__init__.py")
"""What is below these on a thread only leads to its event loop."""

_PLUMBING = (*_LOOP, "asyncio/base_events.py", "asyncio/events.py", "threading.py")
_WAITING = (*_LOOP, "asyncio/locks.py", "asyncio/tasks.py", "asyncio/queues.py")

Frame = dict[str, Any]


def stacks_for_people(title: str, stacks: dict[str, Any], all: bool = False) -> Text:
    """
    Args:
        title: what process it is.
        stacks: `ProcessStacks`.
        all: with the frames, threads and tasks that are Headrace's own and wait.
    """
    ours = stacks["headrace"]
    text = Text.assemble((title, "bold"), (f", Python {stacks['python']}\n", _DIM))
    threads = [(thread, thread["frames"] if all else _telling(thread["frames"])) for thread in stacks["threads"]]
    hidden_threads = 0
    for thread, frames in threads:
        if not all and thread["name"] == "headrace-vitals":  # it is what answers
            hidden_threads += 1
            continue
        daemon = ", daemon" if thread["daemon"] else ""
        about = f" (id {thread['id']}{daemon})" if thread["id"] else ""
        text.append_text(Text.assemble("\nThread ", (thread["name"], "cyan"), (f"{about}\n", _DIM)))
        text.append_text(_frames(frames, "waits in its event loop" if len(frames) < len(thread["frames"]) else ""))
    tasks = [task for task in stacks["tasks"] if all or not _is_own(task["frames"], ours)]
    for task in tasks:
        text.append_text(Text.assemble("\nTask ", (_names(task), "cyan"), (f"{_waiting(task)}\n", _DIM)))
        text.append_text(_frames(task["frames"]))
    hidden = sum(task["count"] for task in stacks["tasks"]) - sum(task["count"] for task in tasks)
    text.append(_summary(sum(task["count"] for task in tasks), hidden, hidden_threads), _DIM)
    return text


def _telling(frames: Sequence[Frame]) -> list[Frame]:
    """Without the outer ones that are the same in every thread."""
    begin = 0
    for index, frame in enumerate(frames):
        if frame["file"].endswith(_LOOP):
            begin = index + 1
    rest = list(frames[begin:])
    while rest and rest[0]["file"].endswith(_PLUMBING):
        del rest[0]
    return rest


def _is_own(frames: Sequence[Frame], ours: str) -> bool:
    """Whether a task is of Headrace's, with no code of the user's in it; `headrace.llm` is an application."""
    return all(
        (frame["file"].startswith(ours) and not frame["file"].startswith(f"{ours}llm"))
        or frame["file"].endswith(_WAITING)
        for frame in frames
    )


def _summary(tasks: int, hidden: int, hidden_threads: int) -> str:
    told = f"{tasks} asyncio task{'' if tasks == 1 else 's'}" if tasks or not hidden else ""
    own = f"{hidden} task{'' if hidden == 1 else 's'} of Headrace's own" if hidden else ""
    more = f" (--all shows {'them' if hidden != 1 else 'it'})" if hidden or hidden_threads else ""
    return f"\n{' and '.join(filter(None, (told, own)))}{more}\n"


def _names(task: dict[str, Any]) -> str:
    names = ", ".join(task["names"])
    more = task["count"] - len(task["names"])
    return f"{names} and {more} more" if more else names


def _waiting(task: dict[str, Any]) -> str:
    return f", waits for {task['waits_for']}" if task["waits_for"] else ", runs"


def _frames(frames: Sequence[Frame], nothing: str = "") -> Text:
    if not frames:
        return Text(f"    {nothing or 'no Python code'}\n", style=_DIM)
    text = Text()
    for frame in frames:
        text.append(f"    {frame['function']} ").append(f"({frame['file']}:{frame['line']})\n", _DIM)
    return text
