"""From the latencies of answered requests to what a replica can have: values in, values out."""

from __future__ import annotations

import math
from enum import Enum

import msgspec
from msgspec.structs import replace

from headrace.config.latency_sketch import Sketch, count, merged, percentile_s, slower_than, total_s
from headrace.controller.autoscaling.replica_limit import ReplicaLimit

SHARE = 0.99
FEWEST = 20
"""Of fewer answers it is not said that the target holds."""

_BY_CHANCE = 1.645
"""Standard deviations that only one in twenty is above."""


class Verdict(Enum):
    HOLDS = "holds"
    BREAKS = "breaks"
    UNCLEAR = "unclear"


class Latencies(msgspec.Struct, frozen=True):
    """What was answered lately, and what follows from it.

    Attributes:
        limit: what a replica can have.
        since: what was answered before that belongs to another number of replicas.
        reports: (when, latencies of the requests answered since the report before), oldest first.
        p99_s: as last seen; 0 before.
        demand: requests that came per second, as last seen.
    """

    limit: ReplicaLimit = ReplicaLimit()
    since: float = -math.inf
    reports: tuple[tuple[float, dict[int, int]], ...] = ()
    p99_s: float = 0.0
    demand: float = 0.0

    def restarted(self, now: float, look_back_s: float) -> Latencies:
        """Another number of replicas runs from now on. What is answered next has waited for those before."""
        return replace(self, since=now + min(self.p99_s, look_back_s), reports=())

    def observed(self, now: float, answered: Sketch, interval_s: float, look_back_s: float) -> Latencies:
        """With what callers have told now, who tell of the last `interval_s` each."""
        reports = self.reports
        if answered and now - interval_s >= self.since:
            if reports and now - reports[-1][0] < interval_s / 2:  # of one round of reports
                reports = (*reports[:-1], (reports[-1][0], merged((reports[-1][1], answered))))
            else:
                reports = (*reports, (now, dict(answered)))
        kept = tuple(report for report in reports if report[0] > now - look_back_s)
        return replace(self, reports=kept)

    def judged(
        self, now: float, target_s: float, running: int, ongoing: float, growth: float, interval_s: float
    ) -> Latencies:
        """With what the latencies seen say about the limit.

        The load that they were seen under follows from Little's law: the latencies of the requests answered in a
        stretch of time, added up, are how many of them there were at a time, times its length. It is not always the
        load of that time: just after a jump, what is answered came before it, and while a queue is worked off, what is
        answered has waited in a longer one. A target that breaks, breaks at the load under which the slow ones were.

        Args:
            ongoing: requests under way, on average since `since`.
            growth: how many more of them there are each second.
        """
        if not self.reports or not running:
            return self
        sketch = merged(answered for _, answered in self.reports)
        p99_s = percentile_s(sketch, SHARE)
        length_s = self.reports[-1][0] - self.reports[0][0] + interval_s
        answered_per_s = count(sketch) / length_s
        rate = answered_per_s / running
        limit = self.limit
        match verdict(sketch, target_s):
            case Verdict.BREAKS:
                slow = [slower_than(answered, target_s) for _, answered in self.reports]
                loads = [total_s(answered) / interval_s for _, answered in self.reports]
                under = sum(few * load for few, load in zip(slow, loads, strict=True)) / sum(slow)
                limit = limit.broke(now, max(under, ongoing) / running, max(1.0, p99_s / target_s), rate)
            case Verdict.HOLDS:
                limit = limit.held(now, total_s(sketch) / length_s / running, min(1.0, p99_s / target_s), rate)
        return replace(self, limit=limit, p99_s=p99_s, demand=max(0.0, answered_per_s + growth))


def verdict(sketch: Sketch, target_s: float) -> Verdict:
    """Whether 99 % of all requests can be believed to stay below the target, judging by these.

    It breaks where more of them took longer than chance would have it (a normal approximation of the binomial
    distribution, one-sided at 5 %), and never because of a single one. Between that and 1 % it is unclear, and nothing
    is done.
    """
    seen, slow = count(sketch), slower_than(sketch, target_s)
    expected = seen * (1 - SHARE)
    if slow >= 2 and slow > expected + _BY_CHANCE * math.sqrt(expected):
        return Verdict.BREAKS
    return Verdict.HOLDS if slow <= expected and seen >= FEWEST else Verdict.UNCLEAR
