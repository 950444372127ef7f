"""The number of replicas at which a latency, or a level that replicas show, holds: what is learnt, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.latency_sketch import count, merged, percentile_s, seconds_of, sketch_of, slower_than, total_s
from headrace.controller.autoscaling.decision import AutoscalingState, Decision, Observation, decide
from headrace.controller.autoscaling.latency_target import Verdict, verdict
from headrace.controller.autoscaling.replica_limit import LEAST, REMEMBERED_S, ReplicaLimit
from headrace.exceptions import ConfigError

latencies = st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=300)


# The sketch.


@given(latencies, st.floats(0.01, 1))
def test_any_percentile_is_known_to_two_percent(seconds: list[float], share: float) -> None:
    exact = sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]
    assert percentile_s(sketch_of(seconds), share) == pytest.approx(exact, rel=0.021)


@given(latencies, latencies)
def test_sketches_are_added_without_loss(one: list[float], other: list[float]) -> None:
    assert merged((sketch_of(one), sketch_of(other))) == sketch_of(one + other)
    assert count(sketch_of(one + other)) == len(one) + len(other)
    assert total_s(sketch_of(one)) == pytest.approx(sum(one), rel=0.021)


@given(latencies, st.floats(1e-4, 1e3))
def test_what_is_told_to_be_slower_is(seconds: list[float], limit: float) -> None:
    slow = slower_than(sketch_of(seconds), limit)
    assert sum(took > 1.041 * limit for took in seconds) <= slow <= sum(took > limit for took in seconds)


# Whether a target holds.


@pytest.mark.parametrize(
    ("quick", "slow", "says"),
    [
        (1000, 0, Verdict.HOLDS),
        (990, 10, Verdict.HOLDS),  # 1 %
        (988, 12, Verdict.UNCLEAR),  # a little more, as it may come by chance
        (980, 20, Verdict.BREAKS),
        (19, 0, Verdict.UNCLEAR),  # few
        (5, 1, Verdict.UNCLEAR),  # a single one
        (20, 2, Verdict.BREAKS),
    ],
)
def test_more_than_one_in_a_hundred_must_be_slow_by_more_than_chance(quick: int, slow: int, says: Verdict) -> None:
    assert verdict(sketch_of([0.1] * quick + [2.0] * slow), target_s=1.0) is says


# What a replica can have.

limits = st.builds(
    lambda limit, share, broke_at: ReplicaLimit(limit, broke_at, max(LEAST, min(limit, LEAST + share * 20))),
    st.floats(LEAST, 100) | st.just(math.inf),
    st.floats(0, 1),
    st.floats(0, 100),
)


@given(limits, st.floats(0.01, 100), st.floats(1, 50), st.floats(0, 1), st.booleans())
def test_what_is_tested_never_passes_the_limit(
    limit: ReplicaLimit, load: float, too_much: float, little: float, breaks: bool
) -> None:
    found = limit.broke(200, load, too_much) if breaks else limit.held(200, load, little)
    assert LEAST <= found.tested <= found.limit


@given(limits, st.floats(0.01, 100), st.floats(1, 50), st.floats(1, 50), st.floats(0, 1000), st.integers(0, 50))
def test_the_longer_it_takes_the_more_replicas_are_needed(
    limit: ReplicaLimit, per_replica: float, one: float, other: float, load: float, target: int
) -> None:
    less, more = sorted((one, other))
    needed = [limit.broke(200, per_replica, ratio).needed(load, target) for ratio in (less, more)]
    assert needed[0] <= needed[1]
    assert limit.held(200, per_replica, 1 / less).needed(load, target) <= needed[0] + 1e-9


@given(limits, st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 50))
def test_the_more_load_the_more_replicas_are_needed(limit: ReplicaLimit, one: float, other: float, target: int) -> None:
    less, more = sorted((one, other))
    assert limit.needed(less, target) <= limit.needed(more, target)


def test_a_limit_that_was_not_met_again_is_forgotten() -> None:
    limit = ReplicaLimit().broke(0, 4, 1.2)
    assert limit.held(REMEMBERED_S - 1, 2, 0.5).limit == pytest.approx(3)
    assert limit.held(REMEMBERED_S, 2, 0.5).limit == math.inf


# Decisions.


def config(**options: Any) -> AutoscalingConfig:
    quick = {
        "max_replicas": 100,
        "target_latency_p99_s": 1.0,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "look_back_period_s": 30,
        "metrics_interval_s": 10,
    }
    return AutoscalingConfig(**{**quick, **options})


class Served:
    """A deployment of which every request takes as long as the load of its replica says."""

    def __init__(self, options: AutoscalingConfig, latency_s: Callable[[float], float], replicas: int) -> None:
        self.options, self.latency_s = options, latency_s
        self.replicas, self.now, self.state = replicas, 0.0, AutoscalingState()

    def passes(self, ongoing: float) -> Decision:
        """One interval."""
        self.now += self.options.metrics_interval_s
        told: dict[int, int] = {}
        if self.replicas:
            took = self.latency_s(ongoing / self.replicas)
            rate = ongoing / took  # Little's law
            told = {bucket: max(1, round(rate * self.options.metrics_interval_s)) for bucket in sketch_of([took])}
        found = decide(
            self.options,
            self.state,
            Observation(
                now=self.now,
                running=self.replicas,
                starting=0,
                target=self.replicas,
                total_ongoing=ongoing,
                latencies=told,
            ),
        )
        self.replicas, self.state = found.target, found.state
        return found


curves = st.builds(
    lambda least, slope, knee, steep: (
        lambda load: least + slope * load + (steep * (load - knee) if load > knee else 0.0)
    ),
    st.floats(0.05, 0.8),
    st.floats(0.001, 0.3),
    st.floats(0.6, 20),
    st.floats(0, 5),
)


@settings(deadline=None, max_examples=150)
@given(curves, st.floats(5, 60), st.integers(1, 60))
def test_a_steady_load_ends_at_one_number_at_which_the_target_holds(
    latency_s: Callable[[float], float], ongoing: float, first: int
) -> None:
    deployment = Served(config(max_replicas=200), latency_s, first)
    found = [deployment.passes(ongoing).target for _ in range(250)]
    assert len(set(found[-150:])) == 1, "it goes to and fro"
    reachable = latency_s(LEAST) <= 0.9
    if reachable and ongoing / LEAST <= 200:
        assert latency_s(ongoing / found[-1]) <= 1.041
    assert found[-1] <= math.ceil(ongoing / LEAST)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.05, 0.4), st.floats(20, 60))
def test_it_does_not_keep_many_more_replicas_than_hold_the_target(slope: float, ongoing: float) -> None:
    deployment = Served(config(max_replicas=200), lambda load: slope * load + 0.01, 150)
    for _ in range(250):
        last = deployment.passes(ongoing).target
    fewest = math.ceil(ongoing * slope / 0.99)
    assert last <= math.ceil(fewest * 1.35) + 1


def test_a_target_that_nothing_can_reach_does_not_take_all_replicas() -> None:
    deployment = Served(config(max_replicas=1000), lambda load: 5.0, 10)
    for _ in range(100):
        last = deployment.passes(20)
    assert 40 <= last.target <= 46  # half a request each, or a little less
    assert "more would hardly help" in last.reason


def test_a_load_that_grows_is_followed_before_the_target_breaks_again() -> None:
    deployment = Served(config(), lambda load: 0.25 * load, 10)
    for _ in range(100):
        before = deployment.passes(40).target
    grown = deployment.passes(80)
    for _ in range(3):
        grown = deployment.passes(80)
    assert before in (10, 11, 12, 13) and grown.target == pytest.approx(2 * before, abs=2)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.lists(st.floats(1e-3, 100), max_size=40), st.integers(0, 50)), max_size=30)
)
def test_it_stays_within_the_bounds_whatever_is_told(moments: list[tuple[float, list[float], int]]) -> None:
    options, state, target, now = config(min_replicas=2, max_replicas=9), AutoscalingState(), 3, 0.0
    for ongoing, told, running in moments:
        now += 7.0
        found = decide(
            options,
            state,
            Observation(
                now=now, running=running, starting=0, target=target, total_ongoing=ongoing, latencies=sketch_of(told)
            ),
        )
        assert 2 <= found.target <= 9 and found.reason
        target, state = found.target, found.state


def test_what_has_waited_for_fewer_replicas_does_not_count_against_more() -> None:
    deployment = Served(config(), lambda load: 0.2 * load, 1)
    deployment.passes(20)
    deployment.passes(20)
    grown = deployment.replicas
    assert grown > 1
    deployment.latency_s = lambda load: 30.0  # the queue of before, worked off
    deployment.passes(20)
    assert deployment.replicas == pytest.approx(grown, abs=grown / 2)


def test_nothing_is_known_at_first_and_nothing_is_changed() -> None:
    found = decide(config(), AutoscalingState(), Observation(now=0, running=3, starting=0, target=3, total_ongoing=50))
    assert (found.target, "not known yet" in found.reason) == (3, True)


# Metrics of the replicas.


def told(options: AutoscalingConfig, running: int, ongoing: float = 1, **metrics: dict[str, float]) -> Decision:
    observation = Observation(
        now=0, running=running, starting=0, target=running, total_ongoing=ongoing, metrics=metrics
    )
    return decide(options, AutoscalingState(), observation)


def shared(**targets: float) -> AutoscalingConfig:
    return config(target_latency_p99_s=None, target_metrics=targets)


def each(running: int, value: float) -> dict[str, float]:
    return {f"r{index}": value for index in range(running)}


@pytest.mark.parametrize(("value", "replicas"), [(0.8, 4), (0.81, 5), (1.0, 5), (0.2, 1), (0.39, 2)])
def test_a_shared_metric_needs_its_sum_over_its_target(value: float, replicas: int) -> None:
    assert told(shared(kv_cache_use=0.8), 4, kv_cache_use=each(4, value)).target == replicas


def test_of_several_signals_the_largest_wins_and_is_named() -> None:
    options = config(
        target_latency_p99_s=None, target_ongoing_requests=2, target_metrics={"kv_cache_use": 0.8, "waiting": 10}
    )
    found = told(options, 4, 7, kv_cache_use=each(4, 0.2), waiting=each(4, 15))
    assert found.target == 6 and found.reason.startswith("waiting adds up to 60 over 4 replicas")
    assert told(options, 4, 40, kv_cache_use=each(4, 0.2), waiting=each(4, 15)).target == 20


def test_silent_replicas_are_idle_where_more_are_needed_and_just_right_where_fewer_are() -> None:
    options = shared(use=1.0)
    assert told(options, 4, use=each(3, 2.0)).target == 6
    assert told(options, 4, use=each(3, 0.1)).target == 2  # 0.3, and 1 for the silent one
    assert told(options, 4).target == 4
    assert "no replica tells of it" in told(options, 4).reason


def level(value_at: Callable[[float], float], ongoing: float, first: int) -> list[int]:
    options = config(
        target_latency_p99_s=None, target_metrics={"ttft_s": {"target": 0.5, "kind": "level"}}, max_replicas=200
    )
    state, now, replicas, found = AutoscalingState(), 0.0, first, []
    for _ in range(340):
        now += 10
        decision = decide(
            options,
            state,
            Observation(
                now=now,
                running=replicas,
                starting=0,
                target=replicas,
                total_ongoing=ongoing,
                metrics={"ttft_s": each(replicas, value_at(ongoing / replicas))},
            ),
        )
        replicas, state = decision.target, decision.state
        found.append(replicas)
    return found


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 0.3), st.floats(2, 20), st.floats(0.1, 3), st.integers(1, 50))
def test_a_level_that_does_not_shrink_in_step_ends_at_one_number_too(
    least: float, knee: float, steep: float, first: int
) -> None:
    found = level(lambda load: least + (steep * (load - knee) if load > knee else 0.0), 60, first)
    assert len(set(found[-150:])) == 1
    load = 60 / found[-1]
    assert least + max(0.0, steep * (load - knee)) <= 0.55 + 1e-6


def test_a_level_is_judged_after_the_replicas_have_settled() -> None:
    found = level(lambda load: 1.0, 10, 2)
    assert found[:9] == [2, 2, 2, 5, 5, 5, 5, 10, 10] or found[3] <= 5
    assert max(found) == 20  # half a request each; more would hardly help


def test_a_level_that_is_told_of_the_past_starts_nothing_where_nobody_asks() -> None:
    options = config(target_latency_p99_s=None, target_metrics={"ttft_s": {"target": 0.5, "kind": "level"}})
    assert told(options, 3, 0, ttft_s=each(3, 9.0)).target == 1


# Mistakes.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_latency_p99_s": 1, "target_ongoing_requests": 2}, "target_latency_p99_s and target_ongoing_requests"),
        ({"target_latency_p99_s": 0}, "target_latency_p99_s: must be greater than 0"),
        ({"target_metrics": {"use": 0}}, "target_metrics.use.target: must be greater than 0"),
        ({"target_metrics": {"use": {"target": 1, "kind": "leve"}}}, "did you mean 'level'?"),
        ({"target_metrics": {"use": {"targt": 1}}}, "did you mean 'target'?"),
        ({"target_metrics": {"use": 1}, "policy": {"policy_function": "a:b"}}, "target_metrics: excludes a policy"),
    ],
)
def test_mistakes_name_the_field(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AutoscalingConfig(**options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ({}, 2.0),
        ({"target_ongoing_requests": None}, 2.0),
        ({"target_latency_p99_s": 1.0}, None),
        ({"target_metrics": {"use": 1}}, None),
        ({"target_metrics": {"use": 1}, "target_ongoing_requests": 5}, 5),
    ],
)
def test_requests_are_the_target_where_no_other_is_set(options: dict[str, Any], requests: float | None) -> None:
    found = AutoscalingConfig(**options)
    assert found.target_ongoing_requests == requests
    assert AutoscalingConfig(**found.model_dump(mode="json")) == found


def test_seconds_of_a_bucket_lie_in_it() -> None:
    assert all(sketch_of([seconds_of(bucket)]) == {bucket: 1} for bucket in range(-300, 300))
