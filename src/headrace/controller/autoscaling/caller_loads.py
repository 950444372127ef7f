"""What callers say they have under way at one deployment."""

from __future__ import annotations

import math

from headrace.config.spec import Load

EXPIRES_AFTER_INTERVALS = 3
EXPIRES_AFTER_AT_LEAST_S = 10.0
"""A caller that has said nothing for so long is stuck or cut off, and its requests count no more."""


def expiry(now: float, interval_s: float) -> float:
    """When somebody who tells something every `interval_s` is given up."""
    return now + max(EXPIRES_AFTER_INTERVALS * interval_s, EXPIRES_AFTER_AT_LEAST_S)


class CallerLoads:
    """The last word of each caller. Callers with nothing under way are not kept.

    A request is at one caller, waiting or sent, so that the sum counts each once; replicas are not asked.
    """

    def __init__(self) -> None:
        self._loads: dict[str, tuple[Load, float]] = {}

    def record(self, caller: str, load: Load, now: float, interval_s: float) -> None:
        """`interval_s`: how soon the caller will say something again."""
        if load.ongoing:
            self._loads[caller] = (load, expiry(now, interval_s))
        else:
            self._loads.pop(caller, None)

    def forget(self, caller: str) -> bool:
        """The caller is gone, and its requests with it. Returns whether it had any."""
        return self._loads.pop(caller, None) is not None

    def expire(self, now: float) -> None:
        for caller in [caller for caller, (_, expires_at) in self._loads.items() if expires_at <= now]:
            del self._loads[caller]

    @property
    def next_expiry(self) -> float:
        """When the next caller is given up; infinity where there is none."""
        return min((expires_at for _, expires_at in self._loads.values()), default=math.inf)

    @property
    def total(self) -> Load:
        loads = [load for load, _ in self._loads.values()]
        return Load(sum(load.queued for load in loads), sum(load.running for load in loads))

    def __len__(self) -> int:
        return len(self._loads)
