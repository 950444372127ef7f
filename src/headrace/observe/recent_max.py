"""The largest of the values of the last minute, kept at the cost of two comparisons per value."""

from __future__ import annotations

from collections import deque

SLOT_S = 10.0
SLOTS = 6
"""What is told covers the last 50 to 60 seconds, as in Ray Serve."""


class RecentMax:
    """Added to by one thread; another may ask for the largest meanwhile.

    Args:
        now: by the clock that all later times are told by, seconds.
    """

    __slots__ = ("_past", "current", "until")

    def __init__(self, now: float) -> None:
        self.current = 0.0
        self.until = now + SLOT_S
        self._past: deque[float] = deque(maxlen=SLOTS - 1)

    def add(self, value: float, now: float) -> None:
        if now >= self.until:
            self._turn(now)
        if value > self.current:
            self.current = value

    def _turn(self, now: float) -> None:
        over = self._slots_over(now)
        self._past.append(self.current)
        self._past.extend([0.0] * min(over - 1, SLOTS))
        self.current = 0.0
        self.until += over * SLOT_S

    def _slots_over(self, now: float) -> int:
        return 0 if now < self.until else int((now - self.until) // SLOT_S) + 1

    def largest(self, now: float) -> float:
        """0 where nothing was added in the last minute."""
        kept = SLOTS - self._slots_over(now)
        return max((*self._past, self.current)[-kept:]) if kept > 0 else 0.0
