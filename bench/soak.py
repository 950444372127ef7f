"""80 % load for as long as you like: do memory and file descriptors stay flat?

    python -m bench.soak --seconds 3600 --out soak

Writes `<out>.csv` and, where matplotlib is there, `<out>.png`. Exits with 1 where memory grew by more than 10 % between
the first and the last tenth, or descriptors between the fewest of the first and of the last quarter (the first minute
apart, in which caches fill), or a request failed. The fewest, because a client that was held up opens many connections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.chaos import Server, serving
from bench.load import Outcome, open_loop

CAPACITY = 200.0
"""Requests per second that the load is 80 % of: what two busy cores serve with this client beside them."""

LOAD = 0.8
GROWTH = 1.10
WARM_UP_S = 60.0


class Sample(NamedTuple):
    """All processes of the instance together."""

    seconds: float
    rss_mib: float
    descriptors: int


def sample(server: Server, began: float) -> Sample:
    rss, descriptors = 0, 0
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            rss += process.memory_info().rss
            descriptors += process.num_fds()
    return Sample(time.monotonic() - began, rss / 2**20, descriptors)


async def soak(server: Server, seconds: float) -> tuple[list[Sample], list[Outcome]]:
    """Load it, and look at it once a second."""
    samples: list[Sample] = []
    began = time.monotonic()
    load = asyncio.create_task(open_loop(server.port, LOAD * CAPACITY, seconds))
    while not load.done():
        samples.append(await asyncio.to_thread(sample, server, began))
        await asyncio.wait([load], timeout=1.0)
    return samples, load.result()


def growth(values: Sequence[float]) -> float:
    """How many times the first tenth's median the last tenth's is."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[-tenth:]) / statistics.median(values[:tenth])


def growth_of_the_fewest(values: Sequence[float]) -> float:
    """How many times the first quarter's least the last quarter's is."""
    quarter = max(1, len(values) // 4)
    return min(values[-quarter:]) / min(values[:quarter])


def plot(samples: Sequence[Sample], file: Path) -> bool:
    """Draw it; False where matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, descriptors = figure.subplots(2, 1, sharex=True)
    seconds = [one.seconds for one in samples]
    memory.plot(seconds, [one.rss_mib for one in samples])
    memory.set(ylabel="resident memory, MiB", ylim=(0, None))
    descriptors.plot(seconds, [one.descriptors for one in samples])
    descriptors.set(ylabel="file descriptors", xlabel="seconds", ylim=(0, None))
    figure.savefig(file)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    options = parser.parse_args()
    with serving("headrace", Path(sys.executable)) as server:
        samples, outcomes = asyncio.run(soak(server, options.seconds))
    with options.out.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([Sample._fields, *samples])
    plot(samples, options.out.with_suffix(".png"))
    warm_up_s = min(WARM_UP_S, options.seconds / 3)
    steady = [one for one in samples if one.seconds >= warm_up_s]
    memory = growth([one.rss_mib for one in steady])
    descriptors = growth_of_the_fewest([one.descriptors for one in steady])
    failed = sum(outcome.status != 200 for outcome in outcomes)
    print(f"{len(outcomes):,} requests, {failed} failed; memory x {memory:.3f}, descriptors x {descriptors:.3f}")
    return int(failed > 0 or memory > GROWTH or descriptors > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
