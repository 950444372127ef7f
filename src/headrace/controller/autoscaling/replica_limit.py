"""How many requests a replica can have before a target breaks: learnt from what is seen, values in, values out.

The step is that of Kubernetes' HorizontalPodAutoscaler, whose ratio of value over target says how many times the
replicas are needed; here it is applied to the load of one replica, so that a load that grows is followed at once and
not when the target has broken again. What a ratio alone does not do, is to remember: a target that holds by far with
five replicas, and breaks with four, would have it go to and fro between the two. So the two sides are kept, as a
bisection keeps its bracket (the `limit`, at which it breaks or must be expected to, and `tested`, at which it holds),
and the search ends between them.
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

REMEMBERED_S = 3600.0
"""For how long a limit that was not met again is believed. Requests change over the day."""


class ReplicaLimit(msgspec.Struct, frozen=True):
    """Ongoing requests per replica, waiting ones too.

    Attributes:
        limit: more than that must be expected to break the target; infinity where it never broke.
        broke_at: when it last broke, seconds.
        tested: so many are known to hold it, or little more than are known to. Never above `limit`.
    """

    limit: float = math.inf
    broke_at: float = 0.0
    tested: float = LEAST

    def broke(self, now: float, per_replica: float, ratio: float) -> ReplicaLimit:
        """The target broke at `per_replica` requests, `ratio` (above 1) being value over target."""
        aimed_at = per_replica * max(AIM / ratio, SMALLEST_SHARE)
        limit = max(LEAST, min(self.limit, aimed_at))
        return ReplicaLimit(limit, now, min(self.tested, limit))

    def held(self, now: float, per_replica: float, ratio: float) -> ReplicaLimit:
        """The target held at `per_replica` requests, `ratio` (up to 1) being value over target."""
        forgotten = now - self.broke_at >= REMEMBERED_S
        limit = math.inf if forgotten else max(self.limit, per_replica)
        step = min(max(AIM / ratio if ratio > 0 else LARGEST_SHARE, 1.0), LARGEST_SHARE)
        return replace(self, limit=limit, tested=max(self.tested, min(per_replica * step, limit)))

    def needed(self, load: float, target: int) -> float:
        """Replicas for so many ongoing requests: as many as are wanted, but not so few that the limit is passed, nor
        more than what is tested asks for."""
        if load <= 0:
            return 0.0
        return max(load / self.limit, min(float(target), load / self.tested))
