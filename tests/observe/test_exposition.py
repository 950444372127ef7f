"""The text that is written is the one that Prometheus reads."""

from __future__ import annotations

import math

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from headrace.observe.catalogue import REQUESTS
from headrace.observe.exposition import merge, render


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def written(*metrics: Metric, prefix: str = "", labels: dict[str, str] | None = None) -> str:
    families = [render(metric, prefix, labels or {}) for metric in metrics]
    return merge([[family for family in families if family is not None]]).decode()


@given(st.dictionaries(st.text(max_size=5), st.floats(), max_size=5), st.text())
def test_any_label_value_number_and_description_comes_through(values: dict[str, float], description: str) -> None:
    metric = GaugeMetricFamily("some_gauge", description, labels=["label"])
    for label, value in values.items():
        metric.add_metric([label], value)
    found = parsed(written(metric))
    assert found.keys() == {("some_gauge", frozenset({("label", label)})) for label in values}
    for label, value in values.items():
        read = found["some_gauge", frozenset({("label", label)})]
        assert read == value or (math.isnan(read) and math.isnan(value))


def test_it_reads_as_what_prometheus_client_writes() -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("jobs", "Jobs.\nAll of them.", ["kind"], registry=registry).labels('a"\\b\n').inc(3)
    prometheus_client.Histogram("size", "Sizes.", buckets=[1, 2.5], registry=registry).observe(2)
    prometheus_client.Summary("time", "Times.", registry=registry).observe(2)
    prometheus_client.Gauge("level", "Level.", registry=registry).set(-math.inf)
    prometheus_client.Info("build", "Build.", registry=registry).info({"version": "1"})
    prometheus_client.Enum("state", "State.", states=["on", "off"], registry=registry).state("on")
    expected = {key: value for key, value in parsed(prometheus_client.generate_latest(registry).decode()).items()}
    expected = {key: value for key, value in expected.items() if not key[0].endswith("_created")}
    assert parsed(written(*registry.collect())) == expected
    types = {line for line in written(*registry.collect()).splitlines() if line.startswith("# TYPE")}
    known = prometheus_client.generate_latest(registry).decode().splitlines()
    assert types == {line for line in known if line.startswith("# TYPE") and "_created" not in line}


def test_process_labels_give_way_to_those_of_a_sample() -> None:
    metric = GaugeMetricFamily("level", "", labels=["replica"])
    metric.add_metric(["mine"], 1)
    text = written(metric, labels={"replica": "other", "deployment": "D"})
    assert parsed(text) == {("level", frozenset({("replica", "mine"), ("deployment", "D")})): 1}


def test_half_a_character_is_replaced() -> None:
    metric = GaugeMetricFamily("level", "", labels=["label"])
    metric.add_metric(["\ud800"], 1)
    assert parsed(written(metric)) == {("level", frozenset({("label", "?")})): 1}


def test_names_that_prometheus_2_refuses_are_mended() -> None:
    metric = Metric("a.b", "", "gauge")
    metric.add_sample("a.b", {"c-d": "e"}, 1)
    assert parsed(written(metric)) == {("a_b", frozenset({("c_d", "e")})): 1}


def test_families_of_several_processes_are_one() -> None:
    here, there = CounterMetricFamily("jobs", "Jobs."), CounterMetricFamily("jobs", "Jobs of another version.")
    here.add_sample("jobs_total", {"replica": "a"}, 1)
    there.add_sample("jobs_total", {"replica": "b"}, 2)
    text = merge([[family for m in [metric] if (family := render(m, "ray_", {}))] for metric in (here, there)]).decode()
    assert text.splitlines() == [
        "# HELP ray_jobs_total Jobs.",
        "# TYPE ray_jobs_total counter",
        'ray_jobs_total{replica="a"} 1.0',
        'ray_jobs_total{replica="b"} 2.0',
    ]


def test_a_family_of_another_type_is_left_out() -> None:
    gauge, untyped = Metric("jobs", "", "gauge"), Metric("jobs", "", "unknown")
    gauge.add_sample("jobs", {"replica": "a"}, 1)
    untyped.add_sample("jobs", {"replica": "b"}, 2)
    text = merge([[family for m in [metric] if (family := render(m, "", {}))] for metric in (gauge, untyped)]).decode()
    assert parsed(text) == {("jobs", frozenset({("replica", "a")})): 1}


def test_a_counter_with_a_second_name_answers_to_both() -> None:
    text = written(*REQUESTS.family([({"route": "/"}, 3)]), prefix="ray_")
    names = {name for name, _ in parsed(text)}
    assert names == {"ray_serve_deployment_request_counter_total", "ray_serve_deployment_request_counter"}
