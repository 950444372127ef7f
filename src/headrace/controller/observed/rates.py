"""From what processes have counted since they began to how much happens in a second."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from headrace.config.observed import Tally


class Rates(msgspec.Struct):
    """What happened at one process since it was looked at before.

    Attributes:
        requests_per_s, errors_per_s: requests that ended, and those of them that failed.
        latencies: how many ended in each bucket.
        calls_per_s, refused_per_s: what it asked of others, by "<app>/<deployment>".
    """

    requests_per_s: float
    errors_per_s: float
    latencies: list[int]
    calls_per_s: dict[str, float]
    refused_per_s: dict[str, float]


class Looks:
    """Compares each look at the processes with the one before.

    A process is known by a name that no other ever has. One that begins again counts from 0; so does one that has begun
    since the last look. One that is met for the first time though it has counted for longer (this controller has just
    begun) tells nothing yet. One that did not answer for a while tells, when it answers again, the average of the time
    since it did: what it missed to tell comes once, and not as a peak.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Tally]] = {}
        self._last: float | None = None

    def look(self, at: float, tallies: Mapping[str, Tally], alive: Collection[str]) -> dict[str, Rates]:
        """Rates by process, of those of which any are known.

        Args:
            at: when they were asked, seconds; later than at the look before.
            tallies: what those say that have answered.
            alive: those that there are, whether or not they have answered. Others are forgotten.
        """
        found = {}
        for name, tally in tallies.items():
            before = self._known.get(name)
            if before is not None:
                found[name] = _rates(before[1], tally, at - before[0])
            elif self._last is not None and tally.counting_s <= at - self._last:
                found[name] = _rates(Tally(0.0), tally, at - self._last)
        self._known = {name: known for name, known in self._known.items() if name in alive}
        self._known.update({name: (at, tally) for name, tally in tallies.items()})
        self._last = at
        return found


def _rates(before: Tally, now: Tally, seconds: float) -> Rates:
    if now.counting_s < before.counting_s:  # it has begun again
        before = Tally(0.0)
    was = before.latencies or [0] * len(now.latencies)
    ended = [_increase(*counts) for counts in zip(was, now.latencies, strict=True)]
    calls = {f"{calls.app}/{calls.deployment}": calls for calls in before.calls}
    submitted, refused = {}, {}
    for call in now.calls:
        key = f"{call.app}/{call.deployment}"
        known = calls.get(key)
        submitted[key] = _increase(known.submitted if known else 0, call.submitted) / seconds
        refused[key] = _increase(known.refused if known else 0, call.refused) / seconds
    return Rates(sum(ended) / seconds, _increase(before.failed, now.failed) / seconds, ended, submitted, refused)


def _increase(before: int, now: int) -> int:
    return now - before if now >= before else now
