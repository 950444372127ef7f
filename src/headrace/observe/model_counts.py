"""The multiplexed models of this process, counted where they are loaded and unloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from headrace.observe import catalogue
from headrace.observe.buckets import LATENCY_MS, Buckets
from headrace.observe.collectors import add_collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class ModelCounts:
    """
    Args:
        loaded: says which models are loaded.

    Attributes:
        requests: how often a model was asked for.
        load_ms, unload_ms: how long models took.
    """

    def __init__(self, loaded: Callable[[], list[str]]) -> None:
        self.requests = 0
        self.load_ms = Buckets(LATENCY_MS)
        self.unload_ms = Buckets(LATENCY_MS)
        self._loaded = loaded
        self._exported = False

    def export(self) -> None:
        """Tell of them from now on: a process without multiplexed models has nothing to say."""
        if not self._exported:
            self._exported = True
            add_collector(self._families)

    def _families(self) -> Iterator[Metric]:
        loaded = self._loaded()
        yield from catalogue.MODELS.family([({}, len(loaded))])
        yield from catalogue.MODEL_IDS.family(({"model_id": model_id}, 1) for model_id in loaded)
        yield from catalogue.MODEL_REQUESTS.family([({}, self.requests)])
        yield from catalogue.MODEL_LOADS.family([({}, sum(self.load_ms.counts))])
        yield from catalogue.MODEL_UNLOADS.family([({}, sum(self.unload_ms.counts))])
        yield from catalogue.MODEL_LOAD_TIME.family([({}, self.load_ms)])
        yield from catalogue.MODEL_UNLOAD_TIME.family([({}, self.unload_ms)])
