"""How many requests a replica can have before a target breaks: learnt from what is seen, values in, values out.

The step is that of Kubernetes' HorizontalPodAutoscaler, whose ratio of value over target says how many times the
replicas are needed; here it is applied to the load of one replica, so that a load that grows is followed at once and
not when the target has broken again. What a ratio alone does not do, is to remember: a target that holds by far with
five replicas, and breaks with four, would have it go to and fro between the two. So the two sides are kept, as a
bisection keeps its bracket (the `limit`, at which it breaks or must be expected to, and `tested`, at which it holds),
and the search ends between them.

Requests under way are a good measure of the load while a queue is short, and a bad one when replicas cannot keep up:
a backlog is then as long as it has been growing. What such replicas answer per second does not depend on that, so that
the rate at which they broke is a second limit.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

LEAST = 0.5
"""Ongoing requests per replica that are taken for few: where the target breaks even so, it is not for want of
replicas, since a replica without work half of the time hardly has anybody wait."""

AIM = 0.9
"""The share of the target that is aimed at, since what is measured scatters."""

SMALLEST_SHARE = 0.5
LARGEST_SHARE = 1.5
"""A step leads from the load per replica that broke the target to no less than half of it, and from one that held it to
no more than one and a half times as much."""

RATE_SHARE = 0.9
"""Of the answers per second at which a target broke, so much is allowed."""

RATE_SLACK = 1.1
"""Where the target held at a higher rate than that, so much more than it is allowed."""

FASTEST = 2.0
"""Requests under way ask for no more than so many times the replicas that are wanted: a backlog is gone soon."""

REMEMBERED_S = 24 * 3600.0
"""For how long a limit that was not met again is believed. To try it anew costs a moment in which the target breaks."""


class ReplicaLimit(msgspec.Struct, frozen=True):
    """Ongoing requests per replica, waiting ones too.

    Attributes:
        limit: more than that must be expected to break the target; infinity where it never broke.
        broke_at: when it last broke, seconds.
        tested: so many are known to hold it, or little more than are known to. Never above `limit`.
        rate_limit: requests per second, the same as `limit` for what a replica answers.
    """

    limit: float = math.inf
    broke_at: float = 0.0
    tested: float = LEAST
    rate_limit: float = math.inf

    def broke(self, now: float, per_replica: float, ratio: float, rate: float = math.inf) -> ReplicaLimit:
        """The target broke at `per_replica` requests, `ratio` (above 1) being value over target, and a replica answered
        `rate` of them per second."""
        aimed_at = per_replica * max(AIM / ratio, SMALLEST_SHARE)
        limit = max(LEAST, min(self.limit, aimed_at))
        if per_replica <= LEAST:
            rate = math.inf  # fewer requests would not help
        return ReplicaLimit(limit, now, min(self.tested, limit), min(self.rate_limit, RATE_SHARE * rate))

    def held(self, now: float, per_replica: float, ratio: float, rate: float = 0.0) -> ReplicaLimit:
        """The target held at `per_replica` requests, `ratio` (up to 1) being value over target, and a replica answered
        `rate` of them per second."""
        forgotten = now - self.broke_at >= REMEMBERED_S
        limit = math.inf if forgotten else max(self.limit, per_replica)
        step = min(max(AIM / ratio if ratio > 0 else LARGEST_SHARE, 1.0), LARGEST_SHARE)
        rate_limit = math.inf if forgotten else self.rate_limit
        if rate > rate_limit:
            rate_limit = RATE_SLACK * rate
        tested = max(self.tested, min(per_replica * step, limit))
        return replace(self, limit=limit, tested=tested, rate_limit=rate_limit)

    def needed(self, load: float, target: int, demand: float = 0.0) -> float:
        """Replicas for so many ongoing requests, and `demand` new ones per second: as many as are wanted, but not so
        few that a limit is passed, nor more than what is tested asks for."""
        if load <= 0:
            return 0.0
        under_way = max(load / self.limit, min(float(target), load / self.tested))
        needed = max(min(under_way, FASTEST * max(target, 1)), demand / self.rate_limit)
        return min(needed, load / LEAST)
