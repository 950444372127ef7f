"""What replicas tell of themselves, over time."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.config.autoscaling import AggregationFunction
from headrace.controller.autoscaling.load_window import LoadWindow


class MetricWindows:
    """A window for each metric of each replica, as far back as it is looked."""

    def __init__(self) -> None:
        self._windows: dict[str, dict[str, LoadWindow]] = {}

    def observe(self, now: float, metrics: Mapping[str, Mapping[str, float]], look_back_s: float) -> None:
        """`metrics`: metric to replica to its last value. What is in it no more is forgotten."""
        self._windows = {
            name: {
                replica: self._windows.get(name, {}).get(replica, LoadWindow()).observed(now, value, look_back_s)
                for replica, value in values.items()
            }
            for name, values in metrics.items()
        }

    def aggregated(self, now: float, look_back_s: float, how: AggregationFunction) -> dict[str, dict[str, float]]:
        """Metric to replica to one value for the stretch that is looked back on."""
        return {
            name: {replica: window.aggregate(now, look_back_s, how) for replica, window in windows.items()}
            for name, windows in self._windows.items()
        }

    def raw(self, shift_s: float) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Metric to replica to (since when, value); `shift_s` is added to each time."""
        return {
            name: {
                replica: [(since + shift_s, value) for since, value in window.steps]
                for replica, window in windows.items()
            }
            for name, windows in self._windows.items()
        }
