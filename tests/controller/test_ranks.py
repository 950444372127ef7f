"""Ranks are closed up with as few changes as can be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.controller.ranks import closed

ranks = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 12), max_size=10)


@given(ranks)
def test_afterwards_there_is_each_rank_once_and_no_gap(ranks: dict[str, int]) -> None:
    assert sorted({**ranks, **closed(ranks)}.values()) == list(range(len(ranks)))


@given(ranks)
def test_no_more_replicas_change_than_there_are_gaps(ranks: dict[str, int]) -> None:
    gaps = set(range(len(ranks))) - set(ranks.values())
    assert len(closed(ranks)) == len(gaps)


@given(ranks)
def test_ranks_that_are_closed_stay(ranks: dict[str, int]) -> None:
    assert closed({**ranks, **closed(ranks)}) == {}


def test_the_last_ones_fill_the_gaps() -> None:
    assert closed({"a": 0, "b": 3, "c": 2, "d": 5}) == {"d": 1}
