"""Percentiles of values that were counted in buckets."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Below what value this share of all values lies, as Prometheus' `histogram_quantile` estimates it: values are
    taken to lie evenly in their bucket, the lowest of which begins at 0.

    Args:
        share: 0 to 1.
        bounds: upper bounds of the buckets, rising.
        counts: how many values are in each, and in one above the last.

    Returns:
        None if there are no values; the last bound if it is above that.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank = share * total
    below = 0
    for index, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * max(0.0, rank - below) / count
        below += count
    return bounds[-1]
