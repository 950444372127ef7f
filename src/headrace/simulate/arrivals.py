"""When requests arrive, and how long each takes to serve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.simulate.trace import LoadTrace

_BLOCK = 65_536


@dataclass(frozen=True)
class ServiceTime:
    """How long a replica works on a request.

    Attributes:
        mean_s: on average, seconds.
        variation: standard deviation over mean. 0 for a fixed time, otherwise times are log-normal.
    """

    mean_s: float
    variation: float = 0.0

    def sample(self, generator: np.random.Generator, count: int) -> NDArray[np.float64]:
        if self.variation == 0:
            return np.full(count, self.mean_s)
        variance = math.log1p(self.variation**2)
        return generator.lognormal(math.log(self.mean_s) - variance / 2, math.sqrt(variance), count)


class Arrivals:
    """The requests of a trace, in order, drawn as they are needed.

    Args:
        trace: the rate over time.
        service: what each takes.
        seed: the same seed gives the same requests; another service time does not change when they arrive.
        poisson: independent arrivals. False spaces them evenly, at the same rate.
    """

    def __init__(self, trace: LoadTrace, service: ServiceTime, seed: int, poisson: bool = True) -> None:
        self._edges, self._expected = trace.edges_s, trace.expected_requests
        self._service = service
        of_arrivals, of_service = np.random.SeedSequence(seed).spawn(2)
        self._gaps = np.random.default_rng(of_arrivals)
        self._times = np.random.default_rng(of_service)
        self._poisson = poisson
        self._passed = 0.0 if poisson else -0.5
        self._arrivals = np.empty(0)
        self._services = np.empty(0)

    def until(self, end_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Arrival and service times of the requests before `end_s` that were not handed out yet."""
        while self._passed < self._expected[-1] and (not self._arrivals.size or self._arrivals[-1] < end_s):
            self._draw()
        count = int(np.searchsorted(self._arrivals, end_s))
        taken = self._arrivals[:count], self._services[:count]
        self._arrivals, self._services = self._arrivals[count:], self._services[count:]
        return taken

    def next_s(self) -> float:
        """When the next request arrives; infinity if none does."""
        while not self._arrivals.size and self._passed < self._expected[-1]:
            self._draw()
        return float(self._arrivals[0]) if self._arrivals.size else math.inf

    def _draw(self) -> None:
        # A Poisson process of changing rate is one of rate 1, seen through the expected count over time.
        gaps = self._gaps.exponential(size=_BLOCK) if self._poisson else np.ones(_BLOCK)
        passed = self._passed + np.cumsum(gaps)
        self._passed = float(passed[-1])
        passed = passed[passed < self._expected[-1]]
        arrivals = np.interp(passed, self._expected, self._edges)
        self._arrivals = np.concatenate((self._arrivals, arrivals))
        self._services = np.concatenate((self._services, self._service.sample(self._times, passed.size)))
