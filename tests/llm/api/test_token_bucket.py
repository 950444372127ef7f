"""The token bucket, against what it promises over any history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.api.token_bucket import TokenBucket

steps = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 500), st.integers(-100, 300)),
    max_size=40,
)
"""Seconds that pass, what is asked for, and by how much more than that is used in the end."""


@given(st.integers(1, 1000), steps)
def test_over_time_no_more_is_used_than_a_minutes_worth_and_what_flows_in(
    per_minute: int, history: list[tuple[float, int, int]]
) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    now = 0.0
    taken = 0.0
    for passed_s, amount, _ in history:
        now += passed_s
        if bucket.wait_s(amount, now) == 0:
            # One request of any size may begin with a full bucket: what it takes beyond that is debt.
            assert taken + min(amount, per_minute) <= per_minute + now * per_minute / 60 + 1e-6
            bucket.take(amount, now)
            taken += amount


@given(st.integers(1, 1000), steps)
def test_after_the_wait_that_it_names_there_is_enough(per_minute: int, history: list[tuple[float, int, int]]) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    now = 0.0
    for passed_s, amount, extra in history:
        now += passed_s
        wait_s = bucket.wait_s(amount, now)
        if wait_s:
            now += wait_s + 1e-6
        assert bucket.wait_s(amount, now) == 0
        bucket.take(amount, now)
        bucket.take(extra, now)


@given(st.integers(1, 1000), steps)
def test_it_never_holds_more_than_a_minutes_worth(per_minute: int, history: list[tuple[float, int, int]]) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    now = 0.0
    for passed_s, amount, extra in history:
        now += passed_s
        bucket.take(amount, now)
        bucket.take(extra, now)
        assert bucket.level(now) <= per_minute
        later = now + bucket.full_in_s(now)
        assert bucket.level(now) + (later - now) * per_minute / 60 == pytest.approx(per_minute, abs=1e-6)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(60, 100.0)
    bucket.take(30, 100.0)
    assert bucket.level(50.0) == 30
    assert bucket.level(101.0) == 31
