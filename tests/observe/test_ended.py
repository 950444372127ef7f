"""Which of the requests that have ended a process keeps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.observe.ended import FAILED, LATEST, SLOWEST, TURN_S, EndedRequests, Entry


def entry(number: int, ended: float, took_s: float, failure: str | None = None) -> Entry:
    return (f"r{number}", ended, took_s, failure, "__call__", "/")


def test_the_latest_are_kept_and_the_oldest_of_them_go() -> None:
    kept = EndedRequests(0.0)
    for number in range(LATEST + 100):
        kept.add(entry(number, number / 100, 0.01))
    found = kept.first("recent", LATEST, 0.0)
    assert [e[0] for e in found] == [f"r{number}" for number in range(LATEST + 99, 99, -1)]


def test_slow_and_failed_ones_outlive_a_flood_of_others() -> None:
    kept = EndedRequests(0.0)
    kept.add(entry(-1, 0.1, 9.0))
    kept.add(entry(-2, 0.2, 0.001, "KeyError"))
    for number in range(10 * LATEST):
        kept.add(entry(number, 1 + number / 1000, 0.01))
    assert kept.first("slow", 1, 0.0)[0][0] == "r-1"
    assert [e[0] for e in kept.first("failed", 10, 0.0)] == ["r-2"]
    assert {e[0] for e in kept.of_ids({"r-1", "r-2"}, 0.0)} == {"r-1", "r-2"}


@given(st.lists(st.floats(0, 100), max_size=300))
def test_the_slowest_are_the_slowest(took: list[float]) -> None:
    kept = EndedRequests(0.0)
    for number, seconds in enumerate(took):
        kept.add(entry(number, number / 1000, seconds))
    found = [e[2] for e in kept.first("slow", SLOWEST, 0.0)]
    assert found == sorted(took, reverse=True)[:SLOWEST]


def test_an_old_record_keeps_no_new_one_out() -> None:
    kept = EndedRequests(0.0)
    for number in range(SLOWEST):
        kept.add(entry(number, 1.0, 100.0))
    later = 2 * TURN_S
    kept.add(entry(1000, later, 1.0))
    for number in range(LATEST):
        kept.add(entry(2000 + number, later + 1, 0.01))
    assert kept.first("slow", 1, later - 1)[0][0] == "r1000"
    assert kept.first("slow", 1, later + 2) == []


def test_what_is_kept_is_bounded_when_all_fail_and_each_is_slower_than_all_before() -> None:
    kept = EndedRequests(0.0)
    for number in range(20_000):
        kept.add(entry(number, number / 10, number / 10, "KeyError"))
    assert len(kept.first("recent", 10**6, 0.0)) <= LATEST + FAILED + 2 * SLOWEST
    assert len(kept.first("failed", 50, 0.0)) == 50


def test_those_of_one_application_are_chosen_before_the_limit() -> None:
    kept = EndedRequests(0.0)
    for number in range(20):
        kept.add((f"r{number}", float(number), 0.1, None, "GET", "/", "even" if number % 2 == 0 else "odd", 200))
    found = kept.first("recent", 5, 0.0, lambda e: e[6] == "even")
    assert [e[0] for e in found] == ["r18", "r16", "r14", "r12", "r10"]
