"""The last so many points in time of several values each, in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

UNKNOWN = -1
_MOST = 2**31 - 1


class Ring:
    """Points are numbered by time. Each takes 4 bytes per value, of thousandths; the ring grows to its size as points
    come.

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
        self._values = array("i")

    @property
    def bytes(self) -> int:
        return self._values.itemsize * len(self._values)

    def put(self, number: int, values: Sequence[float | None]) -> None:
        """Set a point: a later one than the last, or the last once more. What is left out between is unknown, and so is
        None. No value is below 0."""
        row = array("i", (UNKNOWN if value is None else min(_MOST, round(1000 * value)) for value in values))
        if self.last < 0 or number - self.last >= self.size:
            self._first, self.last = number, number - 1
            self._values = array("i")
        while self.last < number:
            self.last += 1
            self._set(self.last, row if self.last == number else array("i", [UNKNOWN] * self._width))
        self._set(number, row)

    def _set(self, number: int, row: array[int]) -> None:
        start = self._place(number)
        self._values[start : start + self._width] = row  # at the end of what there is yet, this appends

    def _place(self, number: int) -> int:
        return (number - self._first) % self.size * self._width

    def points(self, first: int, last: int) -> array[int]:
        """A copy of these points, one after the other, for `listed`."""
        begin, end = max(first, self._first, self.last - self.size + 1), min(last, self.last)
        if begin > end:
            return array("i", [UNKNOWN]) * (self._width * (last - first + 1))
        start, stop = self._place(begin), self._place(end) + self._width
        known = self._values[start:stop] if start < stop else self._values[start:] + self._values[:stop]
        unknown = array("i", [UNKNOWN]) * self._width
        return unknown * (begin - first) + known + unknown * (last - end)


def listed(points: array[int], index: int, width: int) -> list[float | None]:
    """One of the `width` values of each point; None for what is unknown."""
    return [None if value < 0 else value / 1000 for value in points[index::width]]
