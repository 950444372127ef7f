"""What a process tells, also where one of its collectors fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import prometheus_client
import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from headrace.observe import collectors
from headrace.observe.collectors import add_collector, collect_process


class _Failing:
    def collect(self) -> Iterable[Metric]:
        raise KeyError("no such device")

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily("device", "")]


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectors, "_own", [])
    monkeypatch.setattr(collectors, "_told", set())


def test_a_collector_that_raises_costs_only_its_own_metrics_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Failing())
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    monkeypatch.setattr(logging.getLogger("headrace"), "propagate", True)
    add_collector(lambda: [GaugeMetricFamily("level", "", value=1)])
    for _ in range(2):
        assert [family.name for family in collect_process("ray_", {}) if family.name == "ray_level"] == ["ray_level"]
    assert sum("no such device" in record.getMessage() for record in caplog.records) == 1


def test_labels_of_the_process_go_where_a_collector_does_not_set_its_own() -> None:
    def labelled() -> Iterable[Metric]:
        family = GaugeMetricFamily("calls", "", labels=["application"])
        family.add_metric(["other"], 1)
        return [family]

    add_collector(labelled, labelled=True)
    add_collector(lambda: [GaugeMetricFamily("level", "", value=1)])
    told = {family.name: family.lines for family in collect_process("", {"application": "app", "replica": "r"})}
    assert told["calls"] == 'calls{application="other"} 1.0\n'
    assert told["level"] == 'level{application="app",replica="r"} 1.0\n'
