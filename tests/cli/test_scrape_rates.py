"""What happened between two scrapes: counters that begin again, replicas that come and go, buckets that are missing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.scrape_rates import Load, Scrape, loads, quantile, read_scrape

BOUNDS = (1.0, 10.0, 100.0, math.inf)
MODEL = ("shop", "Model")


def replica(
    name: str,
    took: tuple[int, ...] = (0, 0, 0, 0),
    *,
    route: str = "/",
    failed: int = 0,
    left: int = 0,
    ongoing: int = 0,
    cpu: float = 0.0,
    started: float = 0.0,
    prefix: str = "ray_",
) -> str:
    """What one replica tells. `took`: requests by bucket, `left`: whose clients left."""
    labels = f'application="shop",deployment="Model",replica="{name}"'
    lines = [f'{prefix}serve_event_loop_tasks{{component="replica",actor_id="{name}"}} 2']
    below = 0
    for bound, count in zip(BOUNDS, took, strict=True):
        below += count
        le = "+Inf" if math.isinf(bound) else f"{bound}"
        name_of_bucket = f"{prefix}serve_deployment_processing_latency_ms_bucket"
        lines.append(f'{name_of_bucket}{{{labels},route="{route}",le="{le}"}} {below}')
    error = f"{prefix}serve_deployment_error_counter_total"
    lines.append(f'{error}{{{labels},route="{route}",exception_type="ValueError"}} {failed}')
    lines.append(f'{error}{{{labels},route="{route}",exception_type="CancelledError"}} {left}')
    lines.append(f"{prefix}serve_replica_processing_queries{{{labels}}} {ongoing}")
    lines.append(f"process_cpu_seconds_total{{{labels}}} {cpu}")
    lines.append(f"process_start_time_seconds{{{labels}}} {started}")
    lines.append(f"process_resident_memory_bytes{{{labels}}} 1000")
    return "\n".join(lines) + "\n"


def at(seconds: float, *texts: str) -> Scrape:
    """A scrape so many seconds after Unix time 1000."""
    return read_scrape("".join(texts), seconds, 1000 + seconds)


def between(before: Scrape, after: Scrape) -> Load:
    return loads(before, after)[MODEL]


def test_rates_are_of_the_time_between() -> None:
    before = at(0, replica("a", (5, 5, 0, 0), failed=1, left=7, cpu=1.0))
    after = at(2, replica("a", (5, 25, 0, 0), failed=5, left=9, cpu=2.0, ongoing=3))
    load = between(before, after)
    assert (load.requests_per_s, load.errors_per_s, load.cpu_percent) == (10.0, 2.0, 50.0)
    assert (load.ongoing, load.memory_bytes, load.reporting) == (3, 1000, 1)
    assert load.latency_ms(0.5) == pytest.approx(5.5)


def test_replicas_are_added_up() -> None:
    before = at(0, replica("a"), replica("b"))
    after = at(1, replica("a", (2, 0, 0, 0), ongoing=1), replica("b", (0, 0, 2, 0), ongoing=2))
    load = between(before, after)
    assert (load.requests_per_s, load.ongoing, load.reporting) == (4.0, 3, 2)
    assert load.latency_ms(0.25) == pytest.approx(0.5)
    assert load.latency_ms(0.75) == pytest.approx(55.0)


def test_a_counter_that_fell_began_again() -> None:
    load = between(at(0, replica("a", (100, 0, 0, 0))), at(1, replica("a", (3, 0, 0, 0))))
    assert load.requests_per_s == 3.0


def test_a_replica_that_is_gone_takes_nothing_with_it() -> None:
    before = at(0, replica("a", (9, 0, 0, 0)), replica("b", (100, 0, 0, 0)))
    load = between(before, at(1, replica("a", (10, 0, 0, 0))))
    assert (load.requests_per_s, load.reporting) == (1.0, 1)


def test_a_replica_that_began_meanwhile_counts_from_its_start() -> None:
    load = between(at(0, replica("a")), at(2, replica("a"), replica("b", (8, 0, 0, 0), started=1001)))
    assert load.requests_per_s == 4.0


def test_a_replica_that_did_not_answer_before_counts_from_the_next_time_on() -> None:
    load = between(at(0, replica("a")), at(2, replica("a"), replica("b", (80_000, 0, 0, 0), cpu=900, started=500)))
    assert (load.requests_per_s, load.cpu_percent, load.latency_ms(0.5)) == (0.0, 0.0, None)


def test_the_first_requests_of_a_route_count() -> None:
    before = at(0, replica("a", (5, 0, 0, 0)))
    load = between(before, at(1, replica("a", (5, 0, 0, 0)), replica("a", (2, 0, 0, 0), route="/new")))
    assert load.requests_per_s == 2.0


def test_no_requests_have_no_latency() -> None:
    scrape = replica("a", (5, 0, 0, 0))
    load = between(at(0, scrape), at(1, scrape))
    assert (load.requests_per_s, load.latency_ms(0.5)) == (0.0, None)


def test_two_scrapes_of_one_moment_have_no_rates() -> None:
    load = between(at(1, replica("a")), at(1, replica("a", (5, 0, 0, 0), ongoing=1)))
    assert (load.requests_per_s, load.ongoing) == (0.0, 1)


@pytest.mark.parametrize("prefix", ["ray_", "", "my_own_"])
def test_names_are_known_whatever_they_begin_with(prefix: str) -> None:
    before, after = replica("a", prefix=prefix), replica("a", (1, 0, 0, 0), prefix=prefix)
    assert between(at(0, before), at(1, after)).requests_per_s == 1.0


def test_what_is_no_scrape_is_refused() -> None:
    with pytest.raises(ValueError):
        read_scrape("<html>not found</html>", 0, 0)


def test_a_quantile_above_the_last_bound_is_that_bound() -> None:
    assert quantile(0.99, {1.0: 0, 10.0: 1, math.inf: 100}) == 10.0


@pytest.mark.parametrize("buckets", [{}, {1.0: 5.0}, {math.inf: 0.0}])
def test_without_buckets_there_is_no_quantile(buckets: dict[float, float]) -> None:
    assert quantile(0.5, buckets) is None


def test_only_an_infinite_bound_says_nothing_of_latency_but_counts() -> None:
    assert quantile(0.5, {math.inf: 3.0}) == 0.0


counts = st.lists(st.integers(0, 50), min_size=4, max_size=4).map(tuple)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    buckets = {bound: float(sum(value <= bound for value in values)) for bound in BOUNDS}
    found = quantile(q, buckets)
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in BOUNDS if bound < upper), default=0.0)
    assert found is not None
    assert lower <= found <= (lower if math.isinf(upper) else upper)


@given(st.dictionaries(st.sampled_from((*BOUNDS, 50.0)), st.floats(0, 1e6)), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_the_share_whatever_the_buckets(
    buckets: dict[float, float], one: float, other: float
) -> None:
    low, high = (quantile(q, buckets) for q in sorted((one, other)))
    assert (low is None) == (high is None)
    assert low is None or high is None or 0 <= low <= high * (1 + 1e-9) + 1e-9


@given(st.dictionaries(st.sampled_from("abc"), counts), st.dictionaries(st.sampled_from("abc"), counts))
def test_nothing_is_ever_negative(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> None:
    scrapes = [
        at(when, *(replica(name, took, failed=took[0], cpu=took[1]) for name, took in found.items()))
        for when, found in ((0, before), (3, after))
    ]
    for load in loads(*scrapes).values():
        figures = (load.requests_per_s, load.errors_per_s, load.cpu_percent, *load.buckets.values())
        assert all(figure >= 0 for figure in figures)
