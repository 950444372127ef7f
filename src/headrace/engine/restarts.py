"""When a process that died is started again: at once, unless it keeps dying."""

from __future__ import annotations

_QUICK_S = 5.0
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0


class Restarts:
    """The deaths of one process that is always started again."""

    def __init__(self) -> None:
        self._quick_deaths = 0

    def delay_after(self, lifetime_s: float) -> float:
        """Note a death after `lifetime_s` seconds of life; returns how many seconds to wait before the next start.

        A process that had lived for a while, or dies for the first time, starts again at once. One that dies within
        seconds of every start waits 0.1 s, 0.2 s, … up to 5 s.
        """
        if lifetime_s >= _QUICK_S:
            self._quick_deaths = 0
            return 0.0
        self._quick_deaths += 1
        if self._quick_deaths == 1:
            return 0.0
        return float(min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(self._quick_deaths - 2, 16)))
