"""How far a batch is, on the terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from headrace.llm.batch.run import BatchCounts

_LINES = 20
"""Printed in all where the output is no terminal."""


class BatchBar:
    """A progress bar on a terminal, a line now and then elsewhere.

    Args:
        counts: read at every `show`.
        console: where it goes.
    """

    def __init__(self, counts: BatchCounts, console: Console) -> None:
        self._counts = counts
        self._console = console
        self._told = 0
        self._task: TaskID
        self._progress = Progress(
            TextColumn("requests"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[failed]}[/red]"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self) -> None:
        """Draw it. What is completed already was so before, and does not count as speed."""
        self._told = self._counts.completed + self._counts.failed
        if self._told:
            self._console.print(
                f"{self._told:,} of {self._counts.total:,} requests are answered already; going on with the rest"
            )
        self._task = self._progress.add_task("", total=self._counts.total, completed=self._told, failed="")
        self._progress.start()

    def show(self) -> None:
        """The counts have changed."""
        counts = self._counts
        ended = counts.completed + counts.failed
        failed = f"{counts.failed:,} failed" if counts.failed else ""
        self._progress.update(self._task, completed=ended, failed=failed)
        if not self._console.is_terminal and (ended - self._told) * _LINES >= counts.total:
            self._told = ended
            self._console.print(f"{ended:,}/{counts.total:,} requests{', ' if failed else ''}{failed}")
