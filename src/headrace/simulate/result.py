"""What a simulation found: rows over time, decisions, and totals."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.exceptions import ConfigError

_STEP = math.log(1.001)
_SMALLEST_S = 1e-6
_BUCKETS = math.ceil(math.log(1e12) / _STEP)


@dataclass(frozen=True)
class Row:
    """A stretch of time.

    Attributes:
        time_s: when it ends, seconds since the start of the trace.
        load: requests per second that arrived in it, refused ones too.
        target, running: replicas wanted, and replicas serving, at its end.
        queued: requests waiting at callers, on average. `ongoing`: requests at replicas.
        answered, refused: requests in it.
        latency_p50_s, latency_p99_s: of the requests answered in it; NaN where there were none.
        oldest_wait_s: for how long the first in the queue has waited at its end.
    """

    time_s: float
    load: float
    target: int
    running: int
    queued: float
    ongoing: float
    answered: int
    refused: int
    latency_p50_s: float
    latency_p99_s: float
    oldest_wait_s: float


@dataclass(frozen=True)
class Change:
    """A decision that changed the number of replicas, and why."""

    time_s: float
    before: int
    after: int
    reason: str


@dataclass(frozen=True)
class Totals:
    """
    Attributes:
        requests: that arrived: `answered`, `refused`, and `unanswered` at the end of the trace.
        replica_hours: of all replicas, from their start to their end.
        mean_replicas, most_replicas: running or starting.
        utilization: share of the places at running replicas that were taken, 0 to 1.
        latency_*_s: of answered requests, from arrival to answer; to 0.1 %, the highest exactly. NaN without any.
        above_target_s: for how long the 99th percentile of the latency was above `latency_target_s`.
    """

    duration_s: float
    requests: int
    answered: int
    refused: int
    unanswered: int
    replica_hours: float
    mean_replicas: float
    most_replicas: int
    utilization: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p99_s: float
    latency_max_s: float
    latency_target_s: float
    above_target_s: float


@dataclass(frozen=True)
class Result:
    """`row_s`: the length of each row, seconds."""

    row_s: float
    rows: list[Row]
    changes: list[Change]
    totals: Totals

    def column(self, name: str) -> NDArray[np.float64]:
        """One field of all rows."""
        return np.array([getattr(row, name) for row in self.rows], dtype=np.float64)

    def write_csv(self, path: Path) -> None:
        """All rows, a column for each field of `Row`.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [column.name for column in fields(Row)])
                writer.writeheader()
                writer.writerows(asdict(row) for row in self.rows)
        except OSError as error:
            raise ConfigError(f"cannot write '{path}': {error.strerror}") from None


@dataclass
class Latencies:
    """Counts by latency, in buckets of 0.1 %."""

    count: int = 0
    total_s: float = 0.0
    highest_s: float = math.nan
    _buckets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BUCKETS, dtype=np.int64))

    def add(self, latencies_s: NDArray[np.float64]) -> None:
        if not latencies_s.size:
            return
        self.count += latencies_s.size
        self.total_s += float(latencies_s.sum())
        self.highest_s = float(np.fmax(self.highest_s, latencies_s.max()))
        places = np.log(np.maximum(latencies_s, _SMALLEST_S) / _SMALLEST_S) / _STEP
        self._buckets += np.bincount(np.minimum(places.astype(np.int64), _BUCKETS - 1), minlength=_BUCKETS)

    def percentile(self, share: float) -> float:
        """The latency that this share of the requests does not exceed, to 0.1 %; NaN of none."""
        if not self.count:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self._buckets), math.ceil(share * self.count)))
        return min(_SMALLEST_S * math.exp((place + 0.5) * _STEP), self.highest_s)

    @property
    def mean(self) -> float:
        return self.total_s / self.count if self.count else math.nan
