"""Who is in the batch: requests wait, join between two steps, and leave as soon as they end.

Rows of the batch are numbered as `running` is. At most one request, the last, is still reading its prompt, so that
those which are writing are always the first rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from headrace.llm.generation.batching.sequence import RunningSequence


class PromptChunk(NamedTuple):
    """A part of a prompt that is read in one forward pass: tokens `start` to `stop` of the sequence in this row."""

    sequence: RunningSequence
    row: int
    start: int
    stop: int


class Scheduler:
    """
    Attributes:
        waiting: by priority, then in order of arrival.
        running: the batch, by row.
    """

    def __init__(
        self,
        max_sequences: int,
        move_row: Callable[[int, int, int], None],
        forget: Callable[[RunningSequence], None],
    ) -> None:
        """
        Args:
            max_sequences: rows of the batch, at most.
            move_row: copies what is kept for one row (from, to, number of tokens).
            forget: drops what is kept for a sequence that leaves.
        """
        self.waiting: dict[int, deque[RunningSequence]] = {}
        self.running: list[RunningSequence] = []
        self._max_sequences = max_sequences
        self._move_row = move_row
        self._forget = forget

    def add(self, sequence: RunningSequence, priority: int = 0) -> None:
        """A new request."""
        self.waiting.setdefault(priority, deque()).append(sequence)

    @property
    def waiting_count(self) -> int:
        return sum(map(len, list(self.waiting.values())))

    @property
    def busy(self) -> bool:
        return bool(self.running) or any(self.waiting.values())

    def next_chunk(self, budget: int) -> PromptChunk | None:
        """What to read of which prompt, at most `budget` tokens; None: nothing, or there is no row."""
        last = self.running[-1] if self.running else None
        if last is None or not last.in_prompt:
            if len(self.running) >= self._max_sequences:
                return None
            last = self._next_waiting()
            if last is None:
                return None
            self.running.append(last)
        stop = min(len(last.prompt), last.computed + budget)
        return PromptChunk(last, len(self.running) - 1, last.computed, stop)

    def _next_waiting(self) -> RunningSequence | None:
        for priority in sorted(self.waiting):
            queue = self.waiting[priority]
            while queue:
                sequence = queue.popleft()
                if not sequence.cancelled:
                    return sequence
            del self.waiting[priority]
        return None

    def writing(self) -> list[RunningSequence]:
        """Those that get a token in the next step: the first rows."""
        if self.running and self.running[-1].in_prompt:
            return self.running[:-1]
        return list(self.running)

    def remove_ended(self, ended: Callable[[RunningSequence], bool]) -> None:
        """Take those out that have ended, and close the gaps."""
        for row in range(len(self.running) - 1, -1, -1):
            if ended(self.running[row]):
                self._remove(row)

    def clear(self) -> None:
        """Take all out."""
        for sequence in self.running:
            self._forget(sequence)
        self.running.clear()

    def _remove(self, row: int) -> None:
        self._forget(self.running[row])
        last = len(self.running) - 1
        reading = self.running[last] if self.running[last].in_prompt else None
        if row != last and reading is not None:
            # The last writing one fills the gap, and the one that reads moves up behind it.
            if row != last - 1:
                self._move(last - 1, row)
            self._move(last, last - 1)
        elif row != last:
            self._move(last, row)
        self.running.pop()

    def _move(self, source: int, target: int) -> None:
        sequence = self.running[source]
        self._move_row(source, target, sequence.computed)
        self.running[target] = sequence
