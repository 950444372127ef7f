"""The last so many points in time of several values each, in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isnan, nan


class Ring:
    """Points are numbered by time. Each takes 4 bytes per value; the ring grows to its size as points come.

    Args:
        size: how many points are kept.
        width: how many values a point has.
    """

    __slots__ = ("_first", "_values", "_width", "last", "size")

    def __init__(self, size: int, width: int) -> None:
        self.size = size
        self.last = -1
        """Number of the latest point; -1 while there is none."""
        self._width = width
        self._first = 0
        self._values = array("f")

    @property
    def bytes(self) -> int:
        return self._values.itemsize * len(self._values)

    def put(self, number: int, values: Sequence[float | None]) -> None:
        """Set a point: a later one than the last, or the last once more. What is left out between is unknown."""
        row = array("f", (nan if value is None else value for value in values))
        if self.last < 0 or number - self.last >= self.size:
            self._first, self.last = number, number - 1
            self._values = array("f")
        while self.last < number:
            self.last += 1
            self._set(self.last, row if self.last == number else array("f", [nan] * self._width))
        self._set(number, row)

    def _set(self, number: int, row: array[float]) -> None:
        start = self._place(number)
        self._values[start : start + self._width] = row  # at the end of what there is yet, this appends

    def _place(self, number: int) -> int:
        return (number - self._first) % self.size * self._width

    def get(self, number: int) -> list[float | None]:
        """A point; None for what is unknown."""
        if not max(self._first, self.last - self.size + 1) <= number <= self.last:
            return [None] * self._width
        start = self._place(number)
        return [None if isnan(value) else round(value, 3) for value in self._values[start : start + self._width]]
