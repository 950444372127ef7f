"""Load over time: the traces that come with the simulator, and those that users measured."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.exceptions import ConfigError

COLUMNS = ("time_s", "requests_per_s")
DAY_S = 86_400.0


@dataclass(frozen=True)
class LoadTrace:
    """A rate that is constant between two edges.

    Attributes:
        name: what charts call it.
        edges_s: n + 1 increasing times, seconds.
        rates: n rates, requests per second.
    """

    name: str
    edges_s: NDArray[np.float64]
    rates: NDArray[np.float64]

    @property
    def duration_s(self) -> float:
        return float(self.edges_s[-1] - self.edges_s[0])

    @property
    def expected_requests(self) -> NDArray[np.float64]:
        """How many requests are expected until each edge."""
        return np.concatenate(([0.0], np.cumsum(self.rates * np.diff(self.edges_s))))

    def mean_rate(self, begin_s: float, end_s: float) -> float:
        """Requests per second between two times."""
        expected = np.interp([begin_s, end_s], self.edges_s, self.expected_requests)
        return float(expected[1] - expected[0]) / (end_s - begin_s)

    def scaled(self, peak: float) -> LoadTrace:
        """The same shape with another highest rate, requests per second."""
        return LoadTrace(self.name, self.edges_s, self.rates * (peak / float(self.rates.max())))


def steps(peak: float = 100.0, step_s: float = 300.0) -> LoadTrace:
    """Quiet, half, full, a fifth, and nothing at the end: shows how fast each way of scaling is."""
    shares = (0.1, 0.5, 1.0, 0.2, 0.0)
    return LoadTrace("steps", step_s * np.arange(len(shares) + 1, dtype=np.float64), peak * np.array(shares))


def ramp(peak: float = 100.0, ramp_s: float = 600.0, hold_s: float = 300.0) -> LoadTrace:
    """From nothing up, there for a while, and down again."""
    edges = np.arange(0.0, 2 * ramp_s + hold_s + 1.0, dtype=np.float64)
    corners = [0.0, ramp_s, ramp_s + hold_s, 2 * ramp_s + hold_s]
    rates = np.interp(edges[:-1] + 0.5, corners, [0.0, peak, peak, 0.0])
    return LoadTrace("ramp", edges, rates.astype(np.float64))


def day(peak: float = 100.0) -> LoadTrace:
    """24 hours from midnight: a quiet night, two busy times of day, and at 20:00 a spike of ten minutes to the peak."""
    edges = np.arange(0.0, DAY_S + 1.0, 30.0, dtype=np.float64)
    hours = (edges[:-1] + 15.0) / 3600.0
    morning = np.exp(-(((hours - 10.5) / 2.2) ** 2))
    evening = np.exp(-(((hours - 17.5) / 3.0) ** 2))
    rates = peak * (0.02 + 0.5 * morning + 0.45 * evening)
    # Up within a minute, ten minutes there, and away over half an hour.
    since = hours * 60.0 - 20 * 60.0
    spike = np.interp(since, [0.0, 1.0, 11.0, 41.0], [0.0, 1.0, 1.0, 0.0])
    rates += (peak - rates) * spike
    return LoadTrace("day", edges, rates)


TRACES: dict[str, Callable[[float], LoadTrace]] = {"steps": steps, "ramp": ramp, "day": day}


def read_csv(path: Path) -> LoadTrace:
    """A trace with the columns `time_s` and `requests_per_s`; others are ignored.

    Each rate holds until the time of the next row, that of the last row for as long as that of the row before. The
    trace is moved so that it begins at 0.

    Raises:
        ConfigError: the file cannot be read, a column is missing, or a row is wrong. The message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or ()]
            missing = [column for column in COLUMNS if column not in names]
            if missing:
                raise ConfigError(
                    f"{path}:1: the first line must name the columns {' and '.join(COLUMNS)}, "
                    f"and {missing[0]} is not among {', '.join(names) or 'its columns: it is empty'}"
                )
            reader.fieldnames = names
            rows = [(reader.line_num, row[COLUMNS[0]], row[COLUMNS[1]]) for row in reader]
    except FileNotFoundError:
        raise ConfigError(f"there is no file '{path}'; a trace is {', '.join(TRACES)}, or a CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read '{path}': {error}") from None
    return _from_rows(path, rows)


def _from_rows(path: Path, rows: Sequence[tuple[int, str | None, str | None]]) -> LoadTrace:
    if len(rows) < 2:
        raise ConfigError(f"{path}: needs at least two rows below the names of the columns, and has {len(rows)}")
    times: list[float] = []
    rates: list[float] = []
    for line, time_text, rate_text in rows:
        time_s = _number(path, line, COLUMNS[0], time_text)
        rate = _number(path, line, COLUMNS[1], rate_text)
        if times and time_s <= times[-1]:
            raise ConfigError(
                f"{path}:{line}: time_s: must be later than the row before ({times[-1]:g}), not {time_s:g}"
            )
        if rate < 0:
            raise ConfigError(f"{path}:{line}: requests_per_s: must be 0 or more, not {rate:g}")
        times.append(time_s)
        rates.append(rate)
    if not any(rates):
        raise ConfigError(f"{path}: requests_per_s: is 0 in every row; there is nothing to simulate")
    edges = np.array([*times, 2 * times[-1] - times[-2]])
    return LoadTrace(path.stem, edges - edges[0], np.array(rates))


def _number(path: Path, line: int, column: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{path}:{line}: {column}: must be a number, not '{text or ''}'")
    return number
