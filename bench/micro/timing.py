"""How long one call of a function takes, in a process where nothing else happens."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        group, name: what the table says.
        call: does it once.
        units: operations that one call does; times are per operation.
        nbytes: bytes that one operation moves, for the rate; 0 for no rate.
    """

    group: str
    name: str
    call: Callable[[], object]
    units: int = 1
    nbytes: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds per operation: the least and the median over the rounds."""

    least_s: float
    median_s: float


def time_case(case: Case, rounds: int = 7, round_s: float = 0.05) -> Timing:
    """Time a case over `rounds` rounds of about `round_s` seconds each, without the garbage collector."""
    case.call()
    calls = 1
    while (took := _time(case.call, calls)) < round_s / 4:
        calls *= 2
    calls = max(1, round(calls * round_s / took))
    enabled = gc.isenabled()
    gc.disable()
    try:
        times = []
        for _ in range(rounds):
            times.append(_time(case.call, calls) / (calls * case.units))
            gc.collect()
    finally:
        if enabled:
            gc.enable()
    return Timing(min(times), statistics.median(times))


def _time(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started
