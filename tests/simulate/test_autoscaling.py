"""A deployment under a trace: known results of queueing theory, conservation, and what scaling does to requests."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.config.autoscaling import AutoscalingConfig, AutoscalingPolicy
from headrace.exceptions import ConfigError
from headrace.simulate.arrivals import ServiceTime
from headrace.simulate.autoscaling import Deployment, simulate
from headrace.simulate.result import Result
from headrace.simulate.trace import LoadTrace, day, ramp, steps


def flat(rate: float, duration_s: float) -> LoadTrace:
    return LoadTrace("flat", np.array([0.0, duration_s]), np.array([rate]))


def fixed(replicas: int) -> AutoscalingConfig:
    return AutoscalingConfig(min_replicas=replicas, max_replicas=replicas)


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0])
def test_one_server_waits_as_long_as_pollaczek_and_khinchine_say(variation: float) -> None:
    service_s, load = 0.1, 0.8
    deployment = Deployment(fixed(1), ServiceTime(service_s, variation), concurrency=1)
    totals = simulate(deployment, flat(load / service_s, 60_000), seed=1).totals
    wait_s = load * service_s * (1 + variation**2) / (2 * (1 - load))
    assert totals.latency_mean_s - service_s == pytest.approx(wait_s, rel=0.05)
    assert totals.utilization == pytest.approx(load, rel=0.02)


def test_many_servers_wait_as_long_as_is_known_of_fixed_service_times() -> None:
    # M/D/2 at a load of 0.8: half of what M/M/2 waits, give or take 2 % (Cosmetatos, 1976).
    service_s, load, servers = 0.1, 0.8, 2
    totals = simulate(
        Deployment(fixed(servers), ServiceTime(service_s), concurrency=1), flat(servers * load / service_s, 60_000)
    ).totals
    wait_of_exponential_s = service_s * load**2 / (1 - load**2)
    correction = 1 + (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    assert totals.latency_mean_s - service_s == pytest.approx(wait_of_exponential_s / 2 * correction, rel=0.05)


def test_evenly_spaced_requests_below_the_capacity_never_wait() -> None:
    deployment = Deployment(fixed(2), ServiceTime(0.1), concurrency=1)
    totals = simulate(deployment, flat(19.9, 1000), poisson=False).totals
    assert totals.requests == 19_900
    assert totals.latency_max_s == pytest.approx(0.1)


def test_littles_law_holds_where_everybody_finds_room() -> None:
    result = simulate(Deployment(fixed(10), ServiceTime(0.5, 0.5), max_ongoing_requests=20), flat(50, 4000))
    ongoing = result.column("ongoing").mean()
    assert ongoing == pytest.approx(result.totals.answered / 4000 * result.totals.latency_mean_s, rel=0.002)
    assert not result.column("queued").any()


scaling = st.builds(
    lambda low, more, target, factor, up, down, interval: AutoscalingConfig(
        min_replicas=low,
        max_replicas=low + more,
        target_ongoing_requests=target,
        smoothing_factor=factor,
        upscale_delay_s=up,
        downscale_delay_s=down,
        metrics_interval_s=interval,
        look_back_period_s=3 * interval,
    ),
    st.integers(0, 3),
    st.integers(1, 20),
    st.floats(0.5, 10),
    st.floats(0.2, 2),
    st.floats(0, 30),
    st.floats(0, 60),
    st.sampled_from([0.5, 5.0, 10.0]),
)


@given(scaling, st.lists(st.floats(0, 60), min_size=1, max_size=6), st.floats(0, 20), st.integers(1, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_no_request_is_lost_and_bounds_hold_whatever_the_settings(
    config: AutoscalingConfig, rates: list[float], start_s: float, concurrency: int, data: st.DataObject
) -> None:
    limit = data.draw(st.integers(1, 20) | st.none())
    trace = LoadTrace("any", 40.0 * np.arange(len(rates) + 1, dtype=np.float64), np.array(rates))
    deployment = Deployment(config, ServiceTime(0.2, 0.5), start_s, 5, concurrency, limit)
    result = simulate(deployment, trace)
    totals = result.totals
    assert totals.requests == totals.answered + totals.refused + totals.unanswered
    assert totals.answered == sum(row.answered for row in result.rows)
    assert limit is not None or totals.refused == 0
    assert result.rows[-1].time_s == trace.duration_s
    assert all(config.min_replicas <= row.target <= config.max_replicas for row in result.rows)
    assert all(0 <= row.running <= config.max_replicas for row in result.rows)
    assert all(change.before != change.after and change.reason for change in result.changes)
    assert totals.most_replicas <= config.max_replicas


def comparable(result: Result) -> str:
    return repr((result.rows, result.changes, result.totals))


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    deployment = Deployment(AutoscalingConfig(max_replicas=20), ServiceTime(0.1, 0.5))
    one, same, other = (simulate(deployment, steps(50), seed=seed) for seed in (7, 7, 8))
    assert comparable(one) == comparable(same)
    assert comparable(one) != comparable(other)


def test_another_service_time_does_not_change_when_requests_arrive() -> None:
    short, long = (
        simulate(Deployment(fixed(30), ServiceTime(mean_s)), ramp(50)).column("load") for mean_s in (0.01, 0.5)
    )
    assert (short == long).all()


def test_a_request_at_zero_replicas_starts_one_and_waits_for_it() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=3)
    trace = LoadTrace("one", np.array([0.0, 100.0, 101.0, 200.0]), np.array([0.0, 1.0, 0.0]))
    result = simulate(Deployment(config, ServiceTime(0.1), start_s=4.0), trace, poisson=False)
    assert result.changes[0].time_s == pytest.approx(100.5)
    assert (result.changes[0].before, result.changes[0].after) == (0, 1)
    assert result.totals.latency_max_s == pytest.approx(4.1)


def test_replicas_serve_only_after_their_start_time_and_cost_from_their_start() -> None:
    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=2,
        target_ongoing_requests=1,
        upscale_delay_s=0,
        metrics_interval_s=10,
        downscale_delay_s=900,
    )
    result = simulate(Deployment(config, ServiceTime(1.0), start_s=15.0), flat(3.0, 100), poisson=False)
    [change] = result.changes
    running = result.column("running")
    ends = result.column("time_s")
    assert running[ends < change.time_s + 15].max() == 1
    assert running[ends > change.time_s + 15].min() == 2
    assert result.totals.replica_hours == pytest.approx((100 + 100 - change.time_s) / 3600)


def test_time_above_the_latency_target_counts_requests_that_still_wait() -> None:
    # Nobody is answered within the trace, so that no latency is ever seen.
    config = AutoscalingConfig(min_replicas=0, max_replicas=1)
    trace = flat(1.0, 100)
    result = simulate(Deployment(config, ServiceTime(0.1), start_s=1000), trace, poisson=False, latency_target_s=50)
    assert (result.totals.answered, result.totals.unanswered) == (0, 100)
    assert result.totals.above_target_s == pytest.approx(49.5, abs=0.2)


def test_a_policy_that_may_look_at_more_than_is_simulated_is_refused() -> None:
    config = AutoscalingConfig(policy=AutoscalingPolicy(policy_function="mine:decide"))
    with pytest.raises(ConfigError, match="policy: 'mine:decide' cannot be simulated"):
        simulate(Deployment(config, ServiceTime(0.1)), ramp(1))


def test_a_day_at_two_hundred_requests_per_second_takes_some_seconds() -> None:
    config = AutoscalingConfig(max_replicas=100, target_ongoing_requests=4)
    trace = day(200)
    trace = trace.scaled(200 * 200 / trace.mean_rate(0, trace.duration_s))
    began = time.process_time()
    totals = simulate(Deployment(config, ServiceTime(0.1, 0.5), max_ongoing_requests=10), trace).totals
    assert totals.requests == pytest.approx(200 * 86_400, rel=0.01)
    assert time.process_time() - began < 20  # 4 s on an idle machine


def test_a_schedule_is_kept_in_virtual_time() -> None:
    morning = {"cron": "0 8 * * mon-fri", "duration_s": 7200, "timezone": "Europe/Berlin", "min_replicas": 7}
    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=9,
        downscale_delay_s=60,
        schedule=[morning],  # type: ignore[list-item]
    )
    deployment = Deployment(config, ServiceTime(0.1), start_s=0, begins_at=datetime(2026, 3, 2, 7, 0))
    result = simulate(deployment, flat(0.5, 5 * 3600))
    up, *down = result.changes
    assert (up.time_s, up.before, up.after) == (pytest.approx(3600, abs=1), 1, 7)
    assert "the schedule '0 8 * * mon-fri' (Europe/Berlin)" in up.reason
    assert down[-1].after == 1 and down[0].time_s == pytest.approx(3 * 3600 + 60, abs=31)
    weekend = replace(deployment, begins_at=datetime(2026, 3, 1, 7, 0))
    assert simulate(weekend, flat(0.5, 5 * 3600)).totals.most_replicas == 1


def test_a_latency_target_finds_as_many_replicas_as_hold_it() -> None:
    config = AutoscalingConfig(max_replicas=60, target_latency_p99_s=0.5, downscale_delay_s=120)
    deployment = Deployment(config, ServiceTime(0.1, 0.5), start_s=5, max_ongoing_requests=20, concurrency=1)
    result = simulate(deployment, flat(100, 3000))
    late = [row for row in result.rows if row.time_s > 1500]
    above = sum(row.latency_p99_s > 0.5 for row in late)
    assert above <= 0.1 * len(late)
    assert 10 < late[-1].target < 25  # 10 would be busy all the time
    assert len(result.changes) < 25
    assert result.totals.latency_target_s == 0.5
    assert any("p99 of the latency" in change.reason for change in result.changes)


def test_target_capacity_is_a_percentage_of_the_bounds() -> None:
    config = AutoscalingConfig(min_replicas=4, max_replicas=10, target_ongoing_requests=1, upscale_delay_s=0)
    deployment = Deployment(config, ServiceTime(1.0), target_capacity=50)
    result = simulate(deployment, flat(20, 600))
    assert result.rows[0].target >= 2 and result.totals.most_replicas == 5


def test_metrics_of_the_replicas_are_refused() -> None:
    config = AutoscalingConfig(target_metrics={"kv_cache_use": 0.8})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="target_metrics: what replicas tell of themselves cannot be simulated"):
        simulate(Deployment(config, ServiceTime(0.1)), ramp(1))
