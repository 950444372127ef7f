"""Which replicas are slower than their peers by far, as a pure function.

After Envoy's outlier detection (success-rate outliers, https://www.envoyproxy.io/docs), with latency in place of
errors: a machine that throttles, a GPU that has fallen back, a neighbour that takes the memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

FACTOR = 3.0
"""How many times the median replica's latency is far too slow."""

MARGIN_S = 0.005
"""And how many seconds beyond it: among fast replicas a factor of three is noise."""

ENOUGH_ANSWERS = 10
"""A replica is judged once it has answered so many requests."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


def far_slower(latencies: Sequence[float]) -> list[int]:
    """Indices of those in `latencies` (seconds) that exceed the median by far.

    Never more than half of them: of two groups, the fast one is taken for the rule only where it is not the smaller.
    """
    if len(latencies) < 2:
        return []
    usual = sorted(latencies)[(len(latencies) - 1) // 2]
    limit = max(FACTOR * usual, usual + MARGIN_S)
    return [index for index, latency in enumerate(latencies) if latency > limit]


def pause_s(times: int) -> float:
    """For how long a replica that was found slow `times` times in a row is spared, seconds."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(times - 1, 16)))
