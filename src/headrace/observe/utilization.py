"""How much of what a replica can do at a time it has done lately, worked out when it is asked."""

from __future__ import annotations

from collections import deque

WINDOW_S = 600.0
"""Ray Serve's."""

_MARKS = 60


class Utilization:
    """Remembers, at most every 10 seconds, how much had been worked by then. The request path does nothing for it.

    Args:
        now: when the work began, on the clock that `percent` is told of, seconds.
    """

    def __init__(self, now: float) -> None:
        self._marks: deque[tuple[float, float]] = deque([(now, 0.0)])

    def percent(self, now: float, worked_s: float, places: int) -> float:
        """The share of the last ten minutes in which the places for requests were taken, 0 to 100.

        Args:
            worked_s: durations of all requests so far, together.
            places: how many requests may run at a time.
        """
        while len(self._marks) > 1 and now - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()
        began, before_s = self._marks[0]
        if now - self._marks[-1][0] >= WINDOW_S / _MARKS:
            self._marks.append((now, worked_s))
        if now <= began or places <= 0:
            return 0.0
        # A request counts when it ends: a long one may bring more time than has passed.
        return min(100.0, 100 * (worked_s - before_s) / ((now - began) * places))
