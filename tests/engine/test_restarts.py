from __future__ import annotations

from headrace.engine.restarts import Restarts


def test_the_first_death_is_followed_by_a_start_at_once() -> None:
    assert Restarts().delay_after(0.01) == 0


def test_one_that_keeps_dying_waits_longer_each_time_up_to_five_seconds() -> None:
    restarts = Restarts()
    assert [restarts.delay_after(0.1) for _ in range(10)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


def test_one_that_has_lived_for_a_while_starts_at_once_again() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.delay_after(0.1)
    assert restarts.delay_after(60) == 0
    assert restarts.delay_after(0.1) == 0
