"""Which replicas count as far slower than their peers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.router.outliers import FACTOR, LONGEST_PAUSE_S, MARGIN_S, far_slower, pause_s

seconds = st.floats(1e-6, 1e4)


@given(st.lists(seconds, max_size=30))
def test_at_most_half_are_outliers_and_never_the_fastest(latencies: list[float]) -> None:
    found = far_slower(latencies)
    assert len(found) <= len(latencies) // 2
    assert all(latencies[index] > min(latencies) for index in found)


@given(st.lists(seconds, min_size=2, max_size=30), st.floats(1.0, FACTOR - 0.01))
def test_replicas_within_the_factor_are_all_alike(latencies: list[float], spread: float) -> None:
    fastest = min(latencies)
    assert far_slower([min(latency, fastest * spread) for latency in latencies]) == []


@given(st.lists(st.floats(1e-6, MARGIN_S), max_size=30))
def test_among_fast_replicas_no_factor_counts(latencies: list[float]) -> None:
    assert far_slower(latencies) == []


@given(st.integers(2, 30), st.floats(0.001, 10), st.data())
def test_one_that_is_far_slower_than_all_others_is_found(count: int, usual: float, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    latencies = [usual] * count
    latencies[index] = usual * FACTOR + MARGIN_S + 0.001
    assert far_slower(latencies) == [index]


@given(st.lists(seconds, min_size=2, max_size=20), st.data())
def test_a_replica_that_becomes_slower_stays_an_outlier(latencies: list[float], data: st.DataObject) -> None:
    found = far_slower(latencies)
    if found:
        index = data.draw(st.sampled_from(found))
        latencies[index] *= 2
        assert index in far_slower(latencies)


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_s(times) for times in (1, 2, 3)] == [1, 2, 4]
    assert pause_s(1000) == LONGEST_PAUSE_S
