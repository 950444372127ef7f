"""How deployments did over the last minutes or hours, a point every few seconds."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from headrace.config.observed import Tally
from headrace.controller.observed.percentiles import percentile
from headrace.controller.observed.rates import Looks, Rates
from headrace.controller.observed.ring import Ring, listed
from headrace.observe.buckets import LATENCY_MS

VALUES = (
    *("requests_per_s", "errors_per_s", "refused_per_s"),
    *("latency_p50_ms", "latency_p90_ms", "latency_p99_ms"),
    *("ongoing", "queued", "replicas", "target_replicas"),
)

_SHARES = (0.5, 0.9, 0.99)


class Deployed(msgspec.Struct):
    """What the controller knows of a deployment. `processes`: names of its replicas, in whatever state."""

    replicas: int
    target_replicas: int
    processes: list[str]


class Points(msgspec.Struct):
    """Points of all deployments. `until`: Unix time of the last one, seconds; None if there is none."""

    interval_s: float
    until: float | None
    points: dict[str, array[int]]

    def told(self) -> dict[str, Any]:
        """As they are told. Takes a second for the day of two hundred deployments; may be called on any thread."""
        deployments = {
            key: {name: listed(points, index, len(VALUES)) for index, name in enumerate(VALUES)}
            for key, points in self.points.items()
        }
        return {"interval_s": self.interval_s, "until": self.until, "deployments": deployments}

    def as_json(self) -> bytes:
        return msgspec.json.encode(self.told())


class Series:
    """
    Args:
        interval_s: between points, seconds; a Unix time that is a multiple of it has one.
        kept_s: how long points are kept.
        longest_s: two looks so far apart still tell of the time between them: all points there get the average. Of
            longer pauses nothing is known.
    """

    def __init__(self, interval_s: float, kept_s: float, longest_s: float) -> None:
        self.interval_s = interval_s
        self.last: int | None = None
        """Number of the last point, counted in intervals since 1970."""
        self.calls: dict[tuple[str, str], float | None] = {}
        """Who calls whom, requests per second: process, and deployment as "<app>/<deployment>"."""
        self._size = round(kept_s / interval_s)
        self._longest = round(longest_s / interval_s)
        self._rings: dict[str, Ring] = {}
        self._looks = Looks()

    def record(
        self,
        at: float,
        now: float,
        deployments: Mapping[str, Deployed],
        tallies: Mapping[str, Tally],
        alive: Collection[str],
    ) -> None:
        """Add a point.

        Args:
            at: Unix time, seconds.
            now: the same on a clock that nobody sets, by which rates go.
            deployments: by "<app>/<deployment>".
            tallies: what processes say, by their names.
            alive: the processes that there are.
        """
        number = round(at / self.interval_s)
        if self.last is not None and number <= self.last:
            if self.last - number <= self._longest:
                return  # this point is there
            self._rings.clear()  # the clock was set back
            self.last = None
        rates = self._looks.look(now, tallies, alive)
        self.calls = {
            (name, f"{call.app}/{call.deployment}"): _of_call(rates.get(name), f"{call.app}/{call.deployment}")
            for name, tally in tallies.items()
            for call in tally.calls
        }
        first = number
        if self.last is not None and number - self.last <= self._longest:
            first = self.last + 1
        queued, refused = _of_callers(tallies, rates)
        for key, deployed in deployments.items():
            values = _point(deployed, tallies, rates)
            values["queued"] = queued.get(key, 0)
            values["refused_per_s"] = refused.get(key, 0.0)
            row = [values[name] for name in VALUES]
            ring = self._rings.get(key)
            if ring is None:
                ring = self._rings[key] = Ring(self._size, len(VALUES))
                ring.put(number, row)
            else:
                for each in range(max(first, ring.last + 1), number + 1):
                    ring.put(each, row)
        self.last = number
        for key in [key for key, ring in self._rings.items() if ring.last <= number - self._size]:
            del self._rings[key]

    def points(self, seconds: float) -> Points:
        """Those of the last `seconds`."""
        last = self.last
        if last is None:
            return Points(self.interval_s, None, {})
        count = min(self._size, round(seconds / self.interval_s))
        kept = {key: ring for key, ring in self._rings.items() if ring.last > last - count}
        points = {key: ring.points(last - count + 1, last) for key, ring in kept.items()}
        return Points(self.interval_s, last * self.interval_s, points)

    def latest(self) -> dict[str, Any]:
        """The newest point, as it is told: one value in place of each list."""
        told = self.points(self.interval_s).told()
        for values in told["deployments"].values():
            values.update({name: column[0] for name, column in values.items()})
        return told

    @property
    def bytes(self) -> int:
        """Memory that the points take."""
        return sum(ring.bytes for ring in self._rings.values())


def _of_call(rates: Rates | None, key: str) -> float | None:
    return None if rates is None else rates.calls_per_s.get(key)


def _of_callers(tallies: Mapping[str, Tally], rates: Mapping[str, Rates]) -> tuple[dict[str, int], dict[str, float]]:
    """What waits for deployments, and what they refuse in a second, at all callers together."""
    queued: dict[str, int] = {}
    refused: dict[str, float] = {}
    for tally in tallies.values():
        for call in tally.calls:
            key = f"{call.app}/{call.deployment}"
            queued[key] = queued.get(key, 0) + call.queued
    for rate in rates.values():
        for key, per_s in rate.refused_per_s.items():
            refused[key] = refused.get(key, 0.0) + per_s
    return queued, refused


def _point(deployed: Deployed, tallies: Mapping[str, Tally], rates: Mapping[str, Rates]) -> dict[str, float | None]:
    answered = [tallies[name] for name in deployed.processes if name in tallies]
    known = [rates[name] for name in deployed.processes if name in rates]
    nothing_known = bool(deployed.processes) and not known
    counts = [sum(column) for column in zip(*(rate.latencies for rate in known), strict=True)]
    point: dict[str, float | None] = {
        "requests_per_s": None if nothing_known else sum(rate.requests_per_s for rate in known),
        "errors_per_s": None if nothing_known else sum(rate.errors_per_s for rate in known),
        "ongoing": None if deployed.processes and not answered else sum(tally.ongoing for tally in answered),
        "replicas": deployed.replicas,
        "target_replicas": deployed.target_replicas,
    }
    for share in _SHARES:
        point[f"latency_p{round(100 * share)}_ms"] = percentile(share, LATENCY_MS, counts)
    return point
