"""The autoscaling decision: bounds, delays, factors, and what goes wrong elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config.autoscaling import AutoscalingConfig
from headrace.controller.autoscaling.decision import (
    AutoscalingState,
    Decision,
    Observation,
    at_capacity,
    decide,
)
from headrace.controller.autoscaling.load_window import LoadWindow


def config(**options: Any) -> AutoscalingConfig:
    """No delays and no memory, unless asked for."""
    quick = {
        "min_replicas": 0,
        "max_replicas": 100,
        "target_ongoing_requests": 2,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "look_back_period_s": 0.001,
        "metrics_interval_s": 0.0005,
    }
    return AutoscalingConfig(**{**quick, **options})


def seen(
    now: float = 0.0, running: int = 1, target: int | None = None, ongoing: float = 0.0, **more: Any
) -> Observation:
    wanted = running if target is None else target
    return Observation(
        now=now, running=running, starting=max(0, wanted - running), target=wanted, total_ongoing=ongoing, **more
    )


def once(options: AutoscalingConfig, observation: Observation) -> int:
    return decide(options, AutoscalingState(), observation).target


class Follows:
    """Decisions in a row, with replicas that come up when they are told to."""

    def __init__(self, options: AutoscalingConfig, running: int) -> None:
        self.options, self.running, self.target, self.state = options, running, running, AutoscalingState()

    def at(self, now: float, ongoing: float, starts: bool = True, **more: Any) -> Decision:
        found = decide(self.options, self.state, seen(now, self.running, self.target, ongoing, **more))
        self.target, self.state = found.target, found.state
        if starts:
            self.running = self.target
        return found


configs = st.builds(
    lambda low, more, first, aim, up, down, up_s, down_s, zero_s, how: AutoscalingConfig(
        min_replicas=low,
        max_replicas=max(1, low + more),
        initial_replicas=min(low + first, max(1, low + more)) if first is not None else None,
        target_ongoing_requests=aim,
        upscaling_factor=up,
        downscaling_factor=down,
        upscale_delay_s=up_s,
        downscale_delay_s=down_s,
        downscale_to_zero_delay_s=zero_s,
        aggregation_function=how,
    ),
    st.integers(0, 10),
    st.integers(0, 50),
    st.none() | st.integers(0, 60),
    st.floats(0.1, 100),
    st.floats(0.01, 20),
    st.floats(0.01, 20),
    st.floats(0, 60),
    st.floats(0, 60),
    st.none() | st.floats(0, 60),
    st.sampled_from(["mean", "max", "min"]),
)
loads = st.floats(0, 1e4)


@settings(deadline=None)
@given(configs, st.lists(st.tuples(st.floats(0, 30), loads, st.integers(0, 80)), max_size=30), st.integers(0, 100))
def test_never_outside_the_bounds(
    options: AutoscalingConfig, moments: list[tuple[float, float, int]], target: int
) -> None:
    state, now = AutoscalingState(), 0.0
    for later_s, ongoing, running in moments:
        now += later_s
        found = decide(options, state, seen(now, running, target, ongoing))
        assert options.min_replicas <= found.target <= options.max_replicas
        assert found.reason
        assert found.look_again_at is None or found.look_again_at >= now
        target, state = found.target, found.state


@given(configs, loads, loads, st.integers(0, 60), st.integers(0, 60))
def test_more_load_never_means_fewer_replicas(
    options: AutoscalingConfig, one: float, other: float, running: int, target: int
) -> None:
    less, more = sorted((one, other))
    assert once(options, seen(0, running, target, less)) <= once(options, seen(0, running, target, more))


@settings(deadline=None)
@given(configs, loads, st.integers(0, 60))
def test_a_steady_load_ends_at_one_number_and_stays_there(
    options: AutoscalingConfig, ongoing: float, running: int
) -> None:
    deployment = Follows(options, running)
    found = [deployment.at(100.0 * step, ongoing).target for step in range(150)]
    needed = math.ceil(ongoing / options.target_ongoing_requests - 1e-9)
    least = max(options.min_replicas, 1 if ongoing else 0)
    assert set(found[-20:]) == {min(max(needed, least), options.max_replicas)}


def test_load_that_still_needs_the_same_replicas_changes_nothing() -> None:
    deployment = Follows(config(), 4)
    for step in range(100):
        ongoing = 6.1 + 1.8 * (step % 2)  # 3.05 and 3.95 replicas
        assert deployment.at(float(step), ongoing).target == 4


@pytest.mark.parametrize(("ongoing", "replicas"), [(0, 1), (1, 1), (2, 1), (2.1, 2), (7, 4), (500, 100)])
def test_load_divided_by_the_target_rounded_up(ongoing: float, replicas: int) -> None:
    assert once(config(), seen(running=3, ongoing=ongoing)) == replicas


def test_rounding_of_floats_starts_no_replica() -> None:
    assert once(config(target_ongoing_requests=0.7), seen(running=3, ongoing=3 * 0.7)) == 3
    assert 2.1 / 0.7 > 3  # what would have


# Factors.


@pytest.mark.parametrize(
    ("factor", "replicas"),
    [(1.0, 8), (0.5, 6), (0.1, 5), (2.0, 12)],
)
def test_upscaling_factor_is_how_much_of_the_step_up_is_taken(factor: float, replicas: int) -> None:
    assert once(config(upscaling_factor=factor), seen(running=4, ongoing=16)) == replicas


@pytest.mark.parametrize(("factor", "replicas"), [(1.0, 2), (0.5, 6), (0.01, 9), (2.0, 2)])
def test_downscaling_factor_is_how_much_of_the_step_down_is_taken(factor: float, replicas: int) -> None:
    assert once(config(downscaling_factor=factor), seen(running=10, ongoing=4)) == replicas


def test_older_names_of_factors_stand_in_for_the_new_ones() -> None:
    up, down = seen(running=4, ongoing=16), seen(running=10, ongoing=4)
    assert once(config(smoothing_factor=0.5), up) == once(config(upscale_smoothing_factor=0.5), up) == 6
    assert once(config(smoothing_factor=0.5), down) == once(config(downscale_smoothing_factor=0.5), down) == 6
    assert once(config(smoothing_factor=0.5, upscaling_factor=1), up) == 8


@settings(deadline=None)
@given(st.floats(0.1, 10), st.integers(1, 20), st.floats(0, 200))
def test_factors_do_not_compound_while_replicas_start(factor: float, running: int, ongoing: float) -> None:
    options = config(min_replicas=1, upscaling_factor=factor, downscaling_factor=factor, max_replicas=100_000)
    deployment = Follows(options, running)
    first = deployment.at(0.0, ongoing, starts=False).target
    for step in range(1, 50):
        assert deployment.at(float(step), ongoing, starts=False).target == first


def test_a_factor_above_one_does_not_run_away_without_traffic() -> None:
    deployment = Follows(config(upscaling_factor=10, min_replicas=1, initial_replicas=1), 0)
    for step in range(100):
        assert deployment.at(float(step), 0.0, starts=False).target == 1


def test_replicas_that_died_are_not_taken_for_a_need_of_fewer() -> None:
    options = config(upscaling_factor=0.5)
    assert once(options, seen(running=1, target=4, ongoing=8)) == 4


# Delays.


def test_a_step_up_is_taken_when_the_load_asked_for_it_for_the_delay() -> None:
    deployment = Follows(config(upscale_delay_s=30), 1)
    assert deployment.at(0, 10).target == 1
    waiting = deployment.at(29.9, 10)
    assert (waiting.target, waiting.look_again_at) == (1, 30)
    deployment.at(29.95, 8)
    assert deployment.at(30, 8).target == 4  # what it asks for then


def test_a_step_down_is_taken_after_its_own_delay() -> None:
    deployment = Follows(config(downscale_delay_s=600), 5)
    assert deployment.at(0, 4).target == 5
    assert deployment.at(599, 4).target == 5
    assert deployment.at(600, 4).target == 2


def test_a_moment_without_need_begins_the_delay_anew() -> None:
    deployment = Follows(config(upscale_delay_s=30), 1)
    deployment.at(0, 10)
    deployment.at(28, 2)
    deployment.at(29, 2)
    deployment.at(29.4, 10)
    deployment.at(29.5, 10)
    assert deployment.at(30, 10).target == 1
    assert deployment.at(59.5, 10).target == 5


def test_each_step_waits_for_the_delay() -> None:
    deployment = Follows(config(upscale_delay_s=10, upscaling_factor=0.5), 2)
    taken = [deployment.at(float(now), 20).target for now in range(40)]
    assert [now for now in range(1, 40) if taken[now] != taken[now - 1]] == [10, 21, 32]
    assert [taken[now] for now in (0, 10, 21, 32)] == [2, 6, 8, 9]


def test_load_that_swings_faster_than_the_delays_scales_nothing() -> None:
    deployment = Follows(config(upscale_delay_s=5, downscale_delay_s=5), 4)
    for step in range(200):
        assert deployment.at(float(step), 2.0 if step % 4 < 2 else 20.0).target == 4


def test_the_last_replica_has_a_delay_of_its_own() -> None:
    deployment = Follows(config(downscale_delay_s=10, downscale_to_zero_delay_s=60), 3)
    deployment.at(0, 0)
    assert deployment.at(10, 0).target == 1  # never from several to none
    deployment.at(10.5, 0)
    assert deployment.at(70, 0).target == 1
    assert deployment.at(70.5, 0).target == 0


def test_without_a_delay_to_zero_the_one_down_counts() -> None:
    deployment = Follows(config(downscale_delay_s=10), 1)
    deployment.at(0, 0)
    assert deployment.at(10, 0).target == 0


# Zero.


@given(configs.filter(lambda c: c.min_replicas == 0), st.floats(0.001, 1e4), st.integers(0, 5))
def test_the_first_request_at_zero_gets_a_replica_at_once(
    options: AutoscalingConfig, ongoing: float, still_stopping: int
) -> None:
    # The dead zone after scaling to zero: replicas on their way out still count as running for a moment.
    assert once(options, seen(running=still_stopping, target=0, ongoing=ongoing)) == 1


def test_a_sleeping_past_does_not_send_it_back_to_sleep() -> None:
    deployment = Follows(config(look_back_period_s=30), 0)
    deployment.at(0, 0)
    assert deployment.at(1000, 0).look_again_at is None  # nothing to wait for
    assert deployment.at(1000.1, 1, starts=False).target == 1
    assert deployment.at(1000.2, 1, starts=False).target == 1


@given(configs, st.floats(0.001, 1e4), st.integers(1, 5))
def test_nobody_is_left_waiting_at_zero_replicas(options: AutoscalingConfig, ongoing: float, target: int) -> None:
    asleep_long = AutoscalingState(load=LoadWindow(((-1e6, 0.0),)), direction=-1, since=-1e6)
    assert decide(options, asleep_long, seen(0.0, target, target, ongoing)).target >= 1


def test_zero_is_reached_as_soon_as_nothing_is_left_of_the_load() -> None:
    deployment = Follows(config(look_back_period_s=30), 1)
    deployment.at(0, 2)
    assert deployment.at(10, 0).target == 1
    found = deployment.at(39.9998, 0)
    assert (found.target, found.look_again_at) == (1, 40)
    assert deployment.at(40, 0).target == 0


# Aggregation.


@pytest.mark.parametrize(("how", "replicas"), [("mean", 5), ("max", 8), ("min", 1)])
def test_the_look_back_period_is_aggregated_as_asked(how: str, replicas: int) -> None:
    window = LoadWindow().observed(0, 16, 30).observed(10, 2, 30).observed(20, 8, 30)
    options = config(look_back_period_s=30, aggregation_function=how)
    assert decide(options, AutoscalingState(load=window), seen(25, 4, ongoing=5)).target == replicas


def test_each_load_counts_for_as_long_as_it_lasted() -> None:
    window = LoadWindow().observed(0, 10, 30).observed(10, 0, 30).observed(15, 4, 30)
    options = config(look_back_period_s=30)
    assert window.aggregate(20, 30, options.aggregation_function) == pytest.approx((10 * 10 + 0 + 4 * 5) / 20)
    assert window.aggregate(35, 30, options.aggregation_function) == pytest.approx((10 * 5 + 0 + 4 * 20) / 30)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 20), loads), min_size=1, max_size=50))
def test_what_is_remembered_does_not_grow_beyond_the_period(moments: list[tuple[float, float]]) -> None:
    window, now = LoadWindow(), 0.0
    for later_s, value in moments:
        now += later_s
        window = window.observed(now, value, 30)
        assert all(since > now - 30 for since, _ in window.steps[1:])


# Bounds.


def test_new_bounds_hold_at_once() -> None:
    slow = config(min_replicas=3, max_replicas=6, upscale_delay_s=600, downscale_delay_s=600)
    assert once(slow, seen(running=1, ongoing=0)) == 3
    assert once(slow, seen(running=9, ongoing=100)) == 6


def test_a_schedule_raises_the_minimum_up_to_the_maximum() -> None:
    assert once(config(max_replicas=10), seen(running=1, scheduled_min=5)) == 5
    assert once(config(max_replicas=10), seen(running=1, scheduled_min=50)) == 10


def test_target_capacity_scales_the_bounds() -> None:
    options = config(min_replicas=4, max_replicas=10)
    assert once(options, seen(running=4, ongoing=0, target_capacity=50)) == 2
    assert once(options, seen(running=4, ongoing=100, target_capacity=50)) == 5
    assert once(options, seen(running=4, ongoing=100, target_capacity=0)) == 0
    growing = config(min_replicas=2, initial_replicas=8, max_replicas=10)
    assert once(growing, seen(running=1, target_capacity=50, capacity_grows=True)) == 4


@pytest.mark.parametrize(
    ("replicas", "percent", "left"), [(10, None, 10), (5, 50, 3), (1, 1, 1), (0, 50, 0), (7, 0, 0)]
)
def test_capacity_is_rounded_half_up_and_leaves_one(replicas: int, percent: float | None, left: int) -> None:
    assert at_capacity(replicas, percent) == left


def test_a_policy_of_the_user_goes_through_factors_delays_and_bounds() -> None:
    assert once(config(max_replicas=5), seen(running=1, wanted=9)) == 5
    assert once(config(upscaling_factor=0.5), seen(running=1, wanted=9)) == 5
    assert once(config(upscale_delay_s=10), seen(running=1, wanted=9)) == 1


def test_of_the_steps_asked_for_during_a_delay_the_smallest_is_taken() -> None:
    up = Follows(config(upscale_delay_s=10), running=1)
    for now, ongoing in ((0, 20), (5, 8), (10, 40)):
        decision = up.at(now, ongoing)
    assert decision.target == 4, "8 requests at 2 per replica were asked for throughout, 40 only at the last moment"

    down = Follows(config(downscale_delay_s=10, min_replicas=1), running=20)
    for now, ongoing in ((0, 2), (5, 12), (10, 2)):
        decision = down.at(now, ongoing)
    assert decision.target == 6


# Where a policy of the user's decides.


@given(configs, st.floats(-1e6, 1e6), st.integers(0, 60), st.integers(0, 60), st.floats(0, 1e4))
def test_what_a_policy_wants_is_bounded(
    options: AutoscalingConfig, wanted: float, running: int, target: int, ongoing: float
) -> None:
    found = once(options, seen(running=running, target=target, ongoing=ongoing, wanted=wanted))
    assert options.min_replicas <= found <= options.max_replicas


def test_a_policy_takes_the_place_of_the_load() -> None:
    assert once(config(), seen(running=2, ongoing=100.0, wanted=3.2)) == 4


def test_a_policys_wish_waits_for_the_delay_of_its_direction() -> None:
    follows = Follows(config(upscale_delay_s=10, downscale_delay_s=20), 2)
    assert follows.at(0, 0, wanted=4).target == 2
    assert follows.at(9, 0, wanted=4).target == 2
    assert follows.at(10, 0, wanted=4).target == 4
    assert follows.at(11, 0, wanted=1).target == 4
    assert follows.at(31, 0, wanted=1).target == 1


def test_a_policy_wakes_what_sleeps_at_once() -> None:
    asleep = seen(running=0, target=0, wanted=3)
    assert once(config(upscale_delay_s=600), asleep) == 3


def test_while_replicas_start_a_policys_wish_waits_for_its_delay() -> None:
    assert once(config(upscale_delay_s=600), seen(running=0, target=2, wanted=4)) == 2


@given(st.integers(0, 20), st.integers(0, 20), configs, st.floats(0, 100))
def test_a_policy_that_fails_changes_nothing_but_what_bounds_and_waiting_requests_ask_for(
    running: int, target: int, options: AutoscalingConfig, ongoing: float
) -> None:
    target = min(max(target, options.min_replicas), options.max_replicas)
    found = once(options, seen(running=running, target=target, ongoing=ongoing, wanted=float(target)))
    assert found == (1 if target == 0 and ongoing > 0 else target)


# Gangs: replicas come and go in whole ones.


@given(
    configs, st.floats(0, 1e4), st.integers(0, 40), st.integers(0, 40), st.integers(1, 8), st.none() | st.floats(0, 100)
)
def test_what_is_wanted_is_whole_gangs_and_enough_of_them(
    options: AutoscalingConfig, ongoing: float, running: int, target: int, gang: int, wanted: float | None
) -> None:
    found = once(options, seen(0.0, running * gang, target * gang, ongoing, unit=gang, wanted=wanted))
    assert found % gang == 0
    assert found < options.max_replicas + gang
    assert found >= min(options.min_replicas, options.max_replicas // gang * gang)


def test_one_replica_more_than_two_gangs_hold_is_a_third_gang() -> None:
    up = config(min_replicas=4, max_replicas=16, target_ongoing_requests=1)
    assert once(up, seen(running=4, ongoing=9.0, unit=4)) == 12
    assert once(up, seen(running=12, ongoing=8.0, unit=4)) == 8
    assert once(up, seen(running=8, ongoing=1000.0, unit=4)) == 16


def test_the_first_request_wakes_a_whole_gang_and_the_last_gang_goes_to_sleep_with_its_own_delay() -> None:
    options = config(max_replicas=8, downscale_to_zero_delay_s=5)
    assert once(options, seen(running=0, ongoing=1.0, unit=4)) == 4
    follows = Follows(options, 8)
    assert follows.at(0, 0.0, unit=4).target == 4
    assert follows.at(4, 0.0, unit=4).target == 4
    assert follows.at(10, 0.0, unit=4).target == 0


def test_bounds_that_are_no_whole_gangs_mean_those_between_them() -> None:
    assert once(config(min_replicas=1, max_replicas=100), seen(running=3, ongoing=1e6, unit=3)) == 99
    assert once(config(min_replicas=1, max_replicas=1), seen(running=0, ongoing=1.0, unit=3)) == 3
