"""Many latencies in little room: counts by bucket, each bucket a few percent wide.

The sketch of Masson, Rim and Lee ("DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019): bucket `i` holds what lies in `(GAMMA**(i-1), GAMMA**i]` seconds, so that any quantile is known
to 2 %, and two sketches are added by adding counts. From a millisecond to an hour there are some 400 buckets, of which
few are ever in use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

Sketch = Mapping[int, int]
"""How many latencies lie in which bucket."""

GAMMA = 1.04
_PER_LOG = 1 / math.log(GAMMA)
_SMALLEST_S = 1e-6


def bucket_of(seconds: float) -> int:
    """Where a latency is counted."""
    return math.ceil(math.log(seconds if seconds > _SMALLEST_S else _SMALLEST_S) * _PER_LOG)


def seconds_of(bucket: int) -> float:
    """What stands for the latencies of a bucket: at most 2 % from any of them."""
    upper: float = GAMMA**bucket
    return 2 * upper / (GAMMA + 1)


def sketch_of(latencies_s: Iterable[float]) -> dict[int, int]:
    """The sketch of these latencies, seconds."""
    counts: dict[int, int] = {}
    for seconds in latencies_s:
        bucket = bucket_of(seconds)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def merged(sketches: Iterable[Sketch]) -> dict[int, int]:
    """All latencies of several sketches."""
    total: dict[int, int] = {}
    for sketch in sketches:
        for bucket, count in sketch.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def count(sketch: Sketch) -> int:
    """How many latencies there are."""
    return sum(sketch.values())


def total_s(sketch: Sketch) -> float:
    """All latencies added up, seconds, to 2 %."""
    return sum(count * seconds_of(bucket) for bucket, count in sketch.items())


def slower_than(sketch: Sketch, seconds: float) -> int:
    """How many latencies are above this one; those of its own bucket, which are within 4 % of it, are not counted."""
    limit = bucket_of(seconds)
    return sum(count for bucket, count in sketch.items() if bucket > limit)


def percentile_s(sketch: Sketch, share: float) -> float:
    """The latency that this share of the requests does not exceed, to 2 %; NaN of none."""
    place, passed = math.ceil(share * count(sketch)), 0
    for bucket in sorted(sketch):
        passed += sketch[bucket]
        if passed >= max(place, 1):
            return seconds_of(bucket)
    return math.nan
