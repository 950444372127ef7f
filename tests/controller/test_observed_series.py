"""Rates and percentiles of what processes have counted, whatever processes come, go, begin again and stay silent."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.observed import CallsTo, Tally
from headrace.controller.observed.percentiles import percentile
from headrace.controller.observed.rates import Looks
from headrace.controller.observed.ring import Ring, listed
from headrace.controller.observed.series import VALUES, Deployed, Series
from headrace.observe.buckets import LATENCY_MS

BOUNDS = (1.0, 2.0, 5.0, 10.0)


def counted(values: list[float], bounds: Any = BOUNDS) -> list[int]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts


# Percentiles.


def test_values_are_taken_to_lie_evenly_in_their_bucket() -> None:
    # As `histogram_quantile` does: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    assert percentile(0.5, BOUNDS, [0, 10, 0, 0, 0]) == 1.5
    assert percentile(0.9, BOUNDS, [10, 0, 0, 0, 0]) == pytest.approx(0.9)
    assert percentile(0.75, BOUNDS, [2, 0, 2, 0, 0]) == 3.5
    assert percentile(0.99, BOUNDS, [1, 0, 0, 0, 99]) == 10.0
    assert percentile(0.5, BOUNDS, [0] * 5) is None


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1))
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = percentile(share, BOUNDS, counted(values))
    assert found is not None
    rank = share * len(values)
    true = next(value for number, value in enumerate(sorted(values), 1) if number >= rank)
    upper = BOUNDS[bisect_left(BOUNDS, true)]
    lower = max((bound for bound in (0.0, *BOUNDS) if bound < upper), default=0.0)
    assert lower <= found <= upper


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_share_is_no_lower_a_value(values: list[float], one: float, other: float) -> None:
    low, high = (percentile(share, BOUNDS, counted(values)) for share in sorted((one, other)))
    assert low is not None and high is not None and low <= high


# Rates.


def tally(counting_s: float, requests: int, failed: int = 0) -> Tally:
    latencies = [0] * len(LATENCY_MS) + [requests]
    return Tally(counting_s, 0, failed, latencies, [CallsTo("app", "Model", requests, failed, 0)])


class Model:
    """Processes that do requests, as they really are."""

    def __init__(self) -> None:
        self.now = 0.0
        self.began: dict[str, float] = {}
        self.done: dict[str, int] = {}
        self.total = 0
        self.lost = 0
        self.names = (f"p{number}" for number in itertools.count())

    def begin(self) -> None:
        name = next(self.names)
        self.began[name], self.done[name] = self.now, 0

    def tallies(self, silent: set[str]) -> dict[str, Tally]:
        return {n: tally(self.now - self.began[n], done) for n, done in self.done.items() if n not in silent}


steps = st.lists(
    st.tuples(
        st.sampled_from(["work", "begin", "end", "begin again", "look", "look"]),
        st.integers(0, 50),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(steps)
def test_no_rate_is_negative_and_none_counts_a_request_twice(steps: list[tuple[str, int, int]]) -> None:
    model, looks = Model(), Looks()
    looks.look(0.0, {}, ())
    told: dict[str, float] = {}
    last: dict[str, float] = {}
    looked = 0.0
    for what, amount, which in steps:
        model.now += 0.5
        names = list(model.done)
        name = names[which % len(names)] if names else None
        if what == "begin":
            model.begin()
        elif what == "end" and name:
            model.lost += model.done[name]
            del model.done[name], model.began[name]
        elif what == "begin again" and name:
            model.done[name], model.began[name] = 0, model.now
        elif what == "work" and name:
            model.done[name] += amount
            model.total += amount
        elif what == "look":
            silent = {name} if name and amount % 3 == 0 else set()
            for process, rates in looks.look(model.now, model.tallies(silent), set(model.done)).items():
                assert rates.requests_per_s >= 0 and rates.errors_per_s >= 0
                assert all(per_s >= 0 for per_s in rates.calls_per_s.values())
                assert sum(rates.latencies) <= model.done[process]
                told[process] = told.get(process, 0.0) + rates.requests_per_s * (model.now - last.get(process, looked))
            last.update(dict.fromkeys(model.done.keys() - silent, model.now))
            looked = model.now
    assert sum(told.values()) <= model.total + 1e-6


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_a_process_that_always_answers_is_told_of_in_full(amounts: list[int]) -> None:
    looks = Looks()
    looks.look(0.0, {}, ())
    done, told = 0, 0.0
    for number, amount in enumerate(amounts, 1):
        done += amount
        rates = looks.look(2.0 * number, {"p": tally(2.0 * number - 1, done)}, {"p"})["p"]
        told += 2.0 * rates.requests_per_s
    assert told == pytest.approx(done)


def test_a_process_that_has_counted_for_long_before_it_is_met_tells_nothing_yet() -> None:
    looks = Looks()
    looks.look(0.0, {}, ())
    assert looks.look(2.0, {"p": tally(3600.0, 1_000_000)}, {"p"}) == {}
    assert looks.look(4.0, {"p": tally(3602.0, 1_000_010)}, {"p"})["p"].requests_per_s == 5.0


def test_a_process_that_was_silent_tells_the_average_when_it_answers_again() -> None:
    looks = Looks()
    looks.look(0.0, {"p": tally(10.0, 100)}, {"p"})
    for second in (2.0, 4.0, 6.0, 8.0):
        assert looks.look(second, {}, {"p"}) == {}
    assert looks.look(10.0, {"p": tally(20.0, 200)}, {"p"})["p"].requests_per_s == 10.0


def test_a_process_that_begins_again_under_its_name_counts_from_nothing() -> None:
    looks = Looks()
    looks.look(0.0, {"p": tally(10.0, 100)}, {"p"})
    assert looks.look(2.0, {"p": tally(1.0, 120)}, {"p"})["p"].requests_per_s == 60.0


def test_one_that_began_again_while_it_was_silent_does_so_too() -> None:
    looks = Looks()
    looks.look(0.0, {"p": tally(10.0, 100)}, {"p"})
    assert looks.look(100.0, {"p": tally(50.0, 60)}, {"p"})["p"].requests_per_s == 0.6


# The ring.


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 1000))), st.integers(1, 10))
def test_a_ring_holds_the_last_points_and_knows_what_it_does_not_know(puts: list[tuple[int, int]], size: int) -> None:
    ring, expected, number = Ring(size, 2), {}, 5
    for later, value in puts:
        number += later
        ring.put(number, [value, None])
        expected[number] = value
    for first in (0, number // 2, number):
        wanted = [expected.get(each) if number - size < each else None for each in range(first, number + 5)]
        assert [listed(ring.points(first, number + 4), index, 2) for index in (0, 1)] == [wanted, [None] * len(wanted)]
    assert ring.bytes <= size * 2 * 4


def test_the_last_point_can_be_set_once_more() -> None:
    ring = Ring(3, 1)
    ring.put(7, [1.0])
    ring.put(7, [2.0])
    assert listed(ring.points(6, 8), 0, 1) == [None, 2.0, None]


# Series.


def record(series: Series, at: float, requests: int | None, replicas: int = 1) -> None:
    """A look at one replica that has counted so many requests; None where there is no deployment."""
    if requests is None:
        series.record(at, at, {}, {}, set())
    else:
        deployed = Deployed(replicas, replicas, ["r"])
        series.record(at, at, {"app/Model": deployed}, {"r": tally(at, requests)}, {"r"})


def test_points_without_anybody_looking_are_averages_of_the_time_between() -> None:
    series = Series(2.0, 60.0, 34.0)
    record(series, 1000.0, 0)
    record(series, 1030.0, 300)
    record(series, 1032.0, 304)
    told = series.points(60.0).told()
    assert (told["until"], told["interval_s"]) == (1032.0, 2.0)
    assert told["deployments"]["app/Model"]["requests_per_s"] == [*[None] * 14, *[10.0] * 15, 2.0]


def test_of_a_long_pause_nothing_is_known() -> None:
    series = Series(2.0, 120.0, 34.0)
    record(series, 1000.0, 0)
    record(series, 1080.0, 80)
    assert series.points(84.0).told()["deployments"]["app/Model"]["requests_per_s"] == [*[None] * 41, 1.0]


def test_a_deleted_deployment_falls_out_when_its_last_point_has() -> None:
    series = Series(2.0, 10.0, 4.0)
    record(series, 1000.0, 0)
    for second in range(2, 9, 2):
        record(series, 1000.0 + second, None)
        assert list(series.points(10.0).told()["deployments"]) == ["app/Model"]
        assert series.latest()["deployments"] == {}
    record(series, 1010.0, None)
    assert series.points(10.0).told()["deployments"] == {}
    assert series.bytes == 0


def test_a_deployment_none_of_whose_replicas_answers_is_unknown_and_one_without_replicas_does_nothing() -> None:
    series = Series(2.0, 10.0, 4.0)
    deployments = {"app/Silent": Deployed(1, 1, ["r"]), "app/Zero": Deployed(0, 0, [])}
    series.record(1000.0, 0.0, deployments, {}, {"r"})
    latest = series.latest()["deployments"]
    assert (latest["app/Silent"]["requests_per_s"], latest["app/Silent"]["ongoing"]) == (None, None)
    assert (latest["app/Zero"]["requests_per_s"], latest["app/Zero"]["ongoing"]) == (0.0, 0.0)


def test_a_clock_that_is_set_back_begins_new_series() -> None:
    series = Series(2.0, 60.0, 4.0)
    record(series, 10_000.0, 0)
    series.record(5_000.0, 10_002.0, {"app/Model": Deployed(1, 1, ["r"])}, {"r": tally(10_002.0, 8)}, {"r"})
    told = series.points(60.0).told()
    assert told["until"] == 5_000.0
    assert told["deployments"]["app/Model"]["requests_per_s"] == [*[None] * 29, 4.0]


def test_two_hundred_deployments_take_twenty_seven_megabytes_at_the_most() -> None:
    fine, coarse = Series(2.0, 900.0, 34.0), Series(30.0, 86_400.0, 60.0)
    for series in (fine, coarse):
        # That many points of one deployment, and a few more.
        for number in range(round(86_400 / series.interval_s) + 10 if series is coarse else 460):
            record(series, number * series.interval_s, number)
    assert 200 * (fine.bytes + coarse.bytes) == 200 * (450 + 2880) * len(VALUES) * 4 < 27_000_000
