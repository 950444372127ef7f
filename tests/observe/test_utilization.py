"""How full a replica was, from how much it has worked."""

from __future__ import annotations

import pytest

from headrace.observe.utilization import WINDOW_S, Utilization


def test_it_is_the_work_done_of_the_work_that_was_possible() -> None:
    used = Utilization(100.0)
    assert used.percent(110.0, 5.0, 1) == 50
    assert used.percent(110.0, 5.0, 5) == 10
    assert used.percent(120.0, 5.0, 1) == 25


def test_only_the_last_ten_minutes_count() -> None:
    used = Utilization(0.0)
    for second in range(0, 1201, 5):
        worked_s = min(second, 600)  # busy for ten minutes, then idle
        last = used.percent(float(second), worked_s, 1)
        if second == 900:
            assert last == pytest.approx(50, abs=2)
    assert last == pytest.approx(0, abs=2)


def test_who_asks_seldom_gets_the_time_since_the_last_answer() -> None:
    used = Utilization(0.0)
    used.percent(10.0, 10.0, 1)
    assert used.percent(10.0 + 2 * WINDOW_S, 10.0 + WINDOW_S, 1) == 50


def test_it_is_never_more_than_all_and_never_a_division_by_nothing() -> None:
    used = Utilization(0.0)
    assert used.percent(0.0, 0.0, 1) == 0
    assert used.percent(1.0, 0.0, 0) == 0
    assert used.percent(1.0, 30.0, 1) == 100  # it has waited since before there was anybody to ask
