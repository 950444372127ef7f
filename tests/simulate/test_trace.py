"""Load traces: those that come with the simulator, and CSV files with all that can be wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.exceptions import ConfigError
from headrace.simulate.arrivals import Arrivals, ServiceTime
from headrace.simulate.trace import TRACES, LoadTrace, read_csv


def write(folder: Path, text: str) -> Path:
    path = folder / "load.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_reaches_its_peak_and_nothing_above(name: str) -> None:
    trace = TRACES[name](250.0)
    assert trace.rates.max() == pytest.approx(250, rel=0.01)
    assert trace.rates.min() >= 0


def test_rates_of_a_csv_hold_until_the_next_row_and_the_last_as_long_as_the_one_before(tmp_path: Path) -> None:
    trace = read_csv(write(tmp_path, "requests_per_s, time_s,note\n2,100,a\n8,160,b\n0,180,\n"))
    assert list(trace.edges_s) == [0, 60, 80, 100]
    assert list(trace.rates) == [2, 8, 0]
    assert trace.mean_rate(0, 80) == pytest.approx((2 * 60 + 8 * 20) / 80)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "time_s is not among its columns: it is empty"),
        ("seconds,requests_per_s\n0,1\n1,1\n", "time_s is not among seconds, requests_per_s"),
        ("time_s,requests_per_s\n0,1\n", "at least two rows"),
        ("time_s,requests_per_s\n0,1\n1,many\n", "load.csv:3: requests_per_s: must be a number, not 'many'"),
        ("time_s,requests_per_s\n0,1\n1\n", "load.csv:3: requests_per_s: must be a number, not ''"),
        ("time_s,requests_per_s\n0,1\n1,nan\n", "load.csv:3: requests_per_s: must be a number, not 'nan'"),
        ("time_s,requests_per_s\n5,1\n5,1\n", r"load.csv:3: time_s: must be later than the row before \(5\), not 5"),
        ("time_s,requests_per_s\n0,1\n1,-2\n", "load.csv:3: requests_per_s: must be 0 or more, not -2"),
        ("time_s,requests_per_s\n0,0\n1,0\n", "is 0 in every row"),
    ],
)
def test_what_is_wrong_in_a_csv_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_csv(write(tmp_path, text))


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("poisson", [True, False])
def test_requests_arrive_in_order_at_the_rate_of_the_trace(poisson: bool) -> None:
    trace = LoadTrace("two", np.array([0.0, 1000.0, 1100.0, 2000.0]), np.array([20.0, 0.0, 100.0]))
    arrivals = Arrivals(trace, ServiceTime(0.1, 0.5), seed=3, poisson=poisson)
    first, _ = arrivals.until(1000.0)
    none, _ = arrivals.until(1100.0)
    assert arrivals.next_s() > 1100
    rest, services = arrivals.until(2000.0)
    assert none.size == 0
    assert [first.size, rest.size] == pytest.approx([20_000, 90_000], rel=0.03)
    assert (np.diff(rest) >= 0).all()
    assert services.mean() == pytest.approx(0.1, rel=0.02)
    assert services.std() == pytest.approx(0.05, rel=0.05)
    assert arrivals.next_s() == float("inf")


def test_evenly_spaced_requests_are_spaced_by_the_rate() -> None:
    trace = LoadTrace("even", np.array([0.0, 10.0]), np.array([4.0]))
    arrived, _ = Arrivals(trace, ServiceTime(0.1), seed=0, poisson=False).until(10.0)
    assert np.diff(arrived) == pytest.approx(0.25)
    assert arrived.size == 40
