"""The batches of each batched function of this process, counted where they run."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from headrace.observe import catalogue
from headrace.observe.buckets import BATCH_SIZES, LATENCY_MS, PERCENT, Buckets
from headrace.observe.collectors import add_collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Waiting(Protocol):
    """Requests that wait for a batch."""

    @property
    def waiting(self) -> int: ...


class BatchCounts:
    """Of all functions of one name: each instance of a class has its own batches.

    Attributes:
        queues: where requests wait; those that are dropped drop out.
    """

    def __init__(self) -> None:
        self.queues: weakref.WeakSet[Waiting] = weakref.WeakSet()
        self.size = Buckets(BATCH_SIZES)
        self.utilization = Buckets(PERCENT)
        self.wait_ms = Buckets(LATENCY_MS)
        self.time_ms = Buckets(LATENCY_MS)

    def began(self, size: int, max_size: int, waits_s: list[float]) -> None:
        """A batch starts; its requests have waited so long."""
        self.size.add(size)
        self.utilization.add(100 * size / max_size)
        for wait_s in waits_s:
            self.wait_ms.add(1000 * wait_s)

    def ended(self, seconds: float) -> None:
        """A batch is done, or has failed."""
        self.time_ms.add(1000 * seconds)


_by_function: dict[str, BatchCounts] = {}


def batch_counts(function_name: str) -> BatchCounts:
    """The counts of the functions of this name."""
    if not _by_function:
        add_collector(_families)
    return _by_function.setdefault(function_name, BatchCounts())


def _families() -> Iterator[Metric]:
    known = [({"function_name": name}, counts) for name, counts in list(_by_function.items())]
    yield from catalogue.BATCH_SIZE.family((labels, counts.size) for labels, counts in known)
    yield from catalogue.BATCH_WAIT.family((labels, counts.wait_ms) for labels, counts in known)
    yield from catalogue.BATCH_TIME.family((labels, counts.time_ms) for labels, counts in known)
    yield from catalogue.BATCH_UTILIZATION.family((labels, counts.utilization) for labels, counts in known)
    yield from catalogue.BATCH_QUEUE.family(
        (labels, sum(queue.waiting for queue in list(counts.queues))) for labels, counts in known
    )
    yield from catalogue.BATCHES.family((labels, sum(counts.time_ms.counts)) for labels, counts in known)
