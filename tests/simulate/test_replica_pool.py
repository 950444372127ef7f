"""Who waits, who is served and who is refused, against closed forms and against a plain simulation of every request."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.simulate.replica_pool import ReplicaPool, Span, percentile

times = st.floats(0.0, 20.0, allow_nan=False).map(lambda value: round(value, 3))
requests = st.lists(st.tuples(times, times.map(lambda value: value / 4 + 0.001)), max_size=60).map(sorted)
cuts = st.lists(times, max_size=8).map(lambda some: sorted({*some, 20.0}))


def run(pool: ReplicaPool, wanted: Sequence[tuple[float, float]], ends: Sequence[float]) -> list[Span]:
    spans, given_so_far = [], 0
    for end in ends:
        now = [request for request in wanted[given_so_far:] if request[0] < end]
        given_so_far += len(now)
        both = np.array(now, dtype=np.float64).reshape(-1, 2).T
        spans.append(pool.advance(end, both[0], both[1]))
    return spans


def one_by_one(wanted: Sequence[tuple[float, float]], places: int, room: float) -> list[float]:
    """When each accepted request is answered, looked at one at a time."""
    free_at = [0.0] * places
    starts: list[float] = []
    ends: list[float] = []
    for arrival, service in wanted:
        idle = min(free_at) <= arrival and all(start <= arrival for start in starts)
        if not idle and sum(start > arrival for start in starts) >= room:
            continue
        place = free_at.index(min(free_at))
        starts.append(max(arrival, free_at[place]))
        free_at[place] = starts[-1] + service
        ends.append(free_at[place])
    return sorted(ends)


@given(requests, st.integers(1, 6), cuts)
@settings(max_examples=200, deadline=None)
def test_every_request_is_answered_when_a_plain_simulation_says_so(
    wanted: list[tuple[float, float]], places: int, ends: list[float]
) -> None:
    pool = ReplicaPool(max_ongoing_requests=places, concurrency=places)
    pool.resize(1)
    spans = run(pool, wanted, [*ends, 1000.0])
    finished = sorted(np.concatenate([span.finished_s for span in spans]))
    assert finished == pytest.approx(one_by_one(wanted, places, math.inf))


@given(requests, st.integers(1, 4), st.integers(0, 3), st.integers(0, 5), cuts)
@settings(max_examples=200, deadline=None)
def test_requests_are_refused_when_a_plain_simulation_says_so(
    wanted: list[tuple[float, float]], concurrency: int, more_held: int, limit: int, ends: list[float]
) -> None:
    pool = ReplicaPool(concurrency + more_held, concurrency, max_queued_requests=limit)
    pool.resize(1)
    spans = run(pool, wanted, [*ends, 1000.0])
    finished = sorted(np.concatenate([span.finished_s for span in spans]))
    expected = one_by_one(wanted, concurrency, limit + more_held)
    assert finished == pytest.approx(expected)
    assert sum(span.refused for span in spans) == len(wanted) - len(expected)


@given(requests, st.lists(st.tuples(times, st.integers(0, 4)), max_size=8).map(sorted), st.integers(0, 5) | st.none())
@settings(max_examples=200, deadline=None)
def test_no_request_is_lost_while_replicas_come_and_go(
    wanted: list[tuple[float, float]], sizes: list[tuple[float, int]], limit: int | None
) -> None:
    pool = ReplicaPool(3, 2, max_queued_requests=limit)
    spans: list[Span] = []
    given_so_far = 0
    for end, replicas in [*sizes, (20.0, 1), (1000.0, 1)]:
        now = [request for request in wanted[given_so_far:] if request[0] < end]
        given_so_far += len(now)
        spans += run(pool, now, [end])
        pool.resize(replicas)
        left = sum(span.accepted - span.finished_s.size for span in spans)
        assert pool.in_system == left
    assert pool.in_system == 0
    assert sum(span.accepted + span.refused for span in spans) == len(wanted)
    assert all(latency > 0 for span in spans for latency in span.latencies_s)


def test_requests_wait_where_there_is_no_replica_and_are_served_when_one_comes() -> None:
    pool = ReplicaPool(5, 5)
    [span] = run(pool, [(1.0, 0.5), (2.0, 0.5)], [10.0])
    assert (span.accepted, span.finished_s.size, pool.queued, pool.oldest_wait_s) == (2, 0, 2, 9.0)
    pool.resize(1)
    [span] = run(pool, [], [11.0])
    assert list(span.finished_s) == [10.5, 10.5]
    assert list(span.latencies_s) == [9.5, 8.5]


def test_a_replica_that_goes_finishes_what_it_works_on_and_takes_nothing_new() -> None:
    pool = ReplicaPool(1, 1)
    pool.resize(1)
    run(pool, [(0.0, 5.0)], [1.0])
    pool.resize(0)
    [span] = run(pool, [(2.0, 1.0)], [10.0])
    assert list(span.finished_s) == [5.0]
    assert pool.queued == 1


def test_requests_in_a_replica_that_computes_one_at_a_time_are_ongoing_and_not_queued() -> None:
    pool = ReplicaPool(max_ongoing_requests=3, concurrency=1)
    pool.resize(1)
    run(pool, [(0.0, 10.0)] * 5, [1.0])
    assert (pool.in_system, pool.waiting, pool.queued) == (5, 4, 2)


def test_a_percentile_is_the_smallest_value_that_covers_the_share() -> None:
    values = np.arange(100, 0, -1, dtype=np.float64)
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert math.isnan(percentile(np.empty(0), 0.5))
