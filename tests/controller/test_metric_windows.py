"""What policies are told of replicas over time."""

from __future__ import annotations

from headrace.config.autoscaling import AggregationFunction
from headrace.controller.autoscaling.metric_windows import MetricWindows


def test_values_are_aggregated_over_the_time_that_is_looked_back_on() -> None:
    windows = MetricWindows()
    windows.observe(0.0, {"queue": {"a": 2.0}}, look_back_s=10.0)
    windows.observe(5.0, {"queue": {"a": 4.0, "b": 8.0}}, look_back_s=10.0)
    assert windows.aggregated(10.0, 10.0, AggregationFunction.MEAN) == {"queue": {"a": 3.0, "b": 8.0}}
    assert windows.aggregated(10.0, 10.0, AggregationFunction.MAX) == {"queue": {"a": 4.0, "b": 8.0}}
    windows.observe(15.0, {"queue": {"a": 4.0, "b": 8.0}}, look_back_s=10.0)
    assert windows.aggregated(15.0, 10.0, AggregationFunction.MIN) == {"queue": {"a": 4.0, "b": 8.0}}


def test_raw_values_are_told_with_their_times() -> None:
    windows = MetricWindows()
    windows.observe(0.0, {"queue": {"a": 2.0}}, look_back_s=10.0)
    windows.observe(5.0, {"queue": {"a": 4.0}}, look_back_s=10.0)
    assert windows.raw(100.0) == {"queue": {"a": [(100.0, 2.0), (105.0, 4.0)]}}


def test_replicas_and_metrics_that_are_told_of_no_more_are_forgotten() -> None:
    windows = MetricWindows()
    windows.observe(0.0, {"queue": {"a": 2.0, "b": 1.0}, "memory": {"a": 0.5}}, look_back_s=10.0)
    windows.observe(1.0, {"queue": {"b": 1.0}}, look_back_s=10.0)
    assert windows.raw(0.0) == {"queue": {"b": [(0.0, 1.0)]}}
