"""The requests that this process is done with: the latest, the slowest and the failed ones, for people who look for
them. Nothing of what was in a request is kept."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Container
from typing import Any, TypeAlias

LATEST = 512
FAILED = 128
SLOWEST = 32
TURN_S = 300.0
"""The slowest are those of this many seconds and of as many before: an old record keeps no new one out for long."""

Entry: TypeAlias = tuple[Any, ...]
"""The request's id, when it ended (`time.monotonic()`), how long it took, seconds, the name of the exception that it
ended with or None; then whatever else is to be known of it."""


class EndedRequests:
    """Added to by one thread without a lock; another may read meanwhile.

    Args:
        now: `time.monotonic()`.
    """

    __slots__ = ("_before", "_failed", "_latest", "_order", "_slow", "_slow_from_s", "_turns_at")

    def __init__(self, now: float) -> None:
        self._latest: deque[Entry] = deque(maxlen=LATEST)
        self._failed: deque[Entry] = deque(maxlen=FAILED)
        self._slow: list[tuple[float, int, Entry]] = []
        self._before: list[tuple[float, int, Entry]] = []
        self._slow_from_s = -1.0
        self._turns_at = now + TURN_S
        self._order = itertools.count()

    def add(self, entry: Entry) -> None:
        """On the request path: all but the slow and the failed ones cost an append and three comparisons."""
        self._latest.append(entry)
        if entry[2] > self._slow_from_s or entry[3] is not None or entry[1] >= self._turns_at:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        _, ended, took_s, failure = entry[:4]
        if failure is not None:
            self._failed.append(entry)
        if ended >= self._turns_at:
            self._before, self._slow = (self._slow if ended < self._turns_at + TURN_S else []), []
            self._slow_from_s = -1.0
            self._turns_at = ended + TURN_S
        if took_s > self._slow_from_s:
            heapq.heappush(self._slow, (took_s, next(self._order), entry))
            if len(self._slow) > SLOWEST:
                heapq.heappop(self._slow)
            if len(self._slow) == SLOWEST:
                self._slow_from_s = self._slow[0][0]

    def of_ids(self, ids: Container[str], since: float) -> list[Entry]:
        """Those with one of these ids that have ended since."""
        return [entry for entry in self._known(since) if entry[0] in ids]

    def first(self, kind: str, limit: int, since: float, wanted: Callable[[Entry], bool] | None = None) -> list[Entry]:
        """The first `limit` of a kind, "slow", "failed" or "recent", of those that have ended since."""
        known = [entry for entry in self._known(since) if wanted is None or wanted(entry)]
        if kind == "slow":
            return heapq.nlargest(limit, known, key=_took_s)
        if kind == "failed":
            known = [entry for entry in known if entry[3] is not None]
        return heapq.nlargest(limit, known, key=_ended)

    def _known(self, since: float) -> list[Entry]:
        kept = [entry for _, _, entry in (*self._slow, *self._before)]
        # One that is slow and recent is there twice, as the same object.
        known = {id(entry): entry for entry in (*copied(self._latest), *copied(self._failed), *kept)}
        return [entry for entry in known.values() if entry[1] >= since]


def copied(entries: deque[Any]) -> list[Any]:
    """What a deque holds that another thread adds to."""
    while True:
        try:
            return list(entries)
        except RuntimeError:  # it was added to meanwhile
            continue


def _took_s(entry: Entry) -> float:
    took_s: float = entry[2]
    return took_s


def _ended(entry: Entry) -> float:
    ended: float = entry[1]
    return ended
