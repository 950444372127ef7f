"""What is exported for Grafana and Prometheus: it hangs together, and asks for nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.observe.catalogue import CATALOGUE
from headrace.observe.monitoring.alerts import alerts
from headrace.observe.monitoring.bundle import dashboards, monitoring_files
from headrace.observe.monitoring.description import Dashboard, Objectives
from headrace.observe.monitoring.grafana import render
from headrace.observe.monitoring.queries import with_prefix

PACKAGE = Path(__file__).parents[2] / "src" / "headrace"
DASHBOARDS = dashboards(Objectives())
FILES = monitoring_files()
IN_GRAFANA = {"datasource", "__rate_interval"}
OF_LIBRARIES = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
OF_SCRAPES = {"job", "instance"}
VLLM_LABELS = {"model_name", "engine", "finished_reason"}


def of_models() -> set[str]:
    """Names that the LLM part counts under, as any user code may."""
    texts = [path.read_text() for path in (PACKAGE / "llm").rglob("*.py")]
    return {name for text in texts for name in re.findall(r'"(serve_llm_\w+)"', text)}


def asked(expression: str) -> set[str]:
    """The names of metrics in a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\"[^\"]*\"", "", expression)
    return set(re.findall(r"\b(?:serve_|vllm:|process_)\w+", bare))


def without_suffix(name: str) -> Iterator[str]:
    yield name
    for suffix in ("_total", "_bucket", "_count", "_sum"):
        yield name.removesuffix(suffix)


def expressions() -> list[tuple[str, str]]:
    of_dashboards = [(f"{d.title}: {title}", query.expression) for d in DASHBOARDS for title, query in d.queries()]
    return [*of_dashboards, *((alert.name, alert.expression) for alert in alerts(Objectives()))]


def test_every_query_asks_for_metrics_that_there_are() -> None:
    known = set(CATALOGUE) | of_models()
    for title, expression in expressions():
        names = {name for name in asked(expression) if not name.startswith("vllm:")}
        missing = [name for name in names - OF_LIBRARIES if not known.intersection(without_suffix(name))]
        assert not missing, (title, expression)


def test_counters_and_histograms_are_asked_for_by_the_names_of_their_samples() -> None:
    for title, expression in expressions():
        for name in asked(expression) & set(CATALOGUE):
            kind = CATALOGUE[name].type
            assert kind == "gauge", f"{title} asks for {name}, which is a {kind}"


def test_every_query_groups_by_labels_that_its_metrics_have() -> None:
    for title, expression in expressions():
        described = [
            CATALOGUE[base] for name in asked(expression) for base in without_suffix(name) if base in CATALOGUE
        ]
        for metric in described:
            for labels in re.findall(r"\bby \(([^)]*)\)", expression):
                wanted = {label.strip() for label in labels.split(",")} - {"le"} - OF_SCRAPES
                assert wanted <= set(metric.labels), f"{title}: {metric.name} has no {wanted - set(metric.labels)}"
        for name, where in re.findall(r"\b(serve_\w+)\{([^}]*)\}", expression):
            for metric in (CATALOGUE[base] for base in without_suffix(name) if base in CATALOGUE):
                chosen = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", where))
                assert chosen <= set(metric.labels), f"{title}: {name} has no {chosen - set(metric.labels)}"


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.full
def test_vllm_has_the_metrics_that_it_is_asked_for() -> None:
    spec = find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
    known = set(re.findall(r'"(vllm:\w+)"', source))
    for title, expression in expressions():
        for name in asked(expression):
            if name.startswith("vllm:"):
                assert known.intersection(without_suffix(name)), (title, name)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_variable_of_a_query_is_one_of_the_dashboards(dashboard: Dashboard) -> None:
    known = {variable.name for variable in dashboard.variables} | IN_GRAFANA
    for title, query in dashboard.queries():
        assert set(re.findall(r"\$\{?(\w+)", query.expression)) <= known, title
    before: set[str] = set()
    for variable in dashboard.variables:
        assert set(re.findall(r"\$(\w+)", variable.where)) <= before
        before.add(variable.name)


def panels(rendered: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in rendered["panels"]:
        yield panel
        yield from panel.get("panels", ())


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_no_two_panels_have_the_same_number_or_place(dashboard: Dashboard) -> None:
    taken: dict[tuple[int, int], str] = {}
    numbers = set()
    for panel in panels(render(dashboard, "ray_")):
        place = panel["gridPos"]
        assert panel["id"] not in numbers and place["x"] + place["w"] <= 24
        numbers.add(panel["id"])
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_every_panel_says_what_it_shows_and_asks_something(dashboard: Dashboard) -> None:
    drawn = [panel for panel in panels(render(dashboard, "ray_")) if panel["type"] != "row"]
    for panel in drawn:
        assert panel["description"].endswith("."), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters)
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "heatmap"
        for _, names in ((t, re.findall(r"{{(\w+)}}", t["legendFormat"])) for t in panel["targets"]):
            assert all(name in json.dumps(panel["targets"]) for name in names)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_legends_name_labels_that_are_left(dashboard: Dashboard) -> None:
    for title, query in dashboard.queries():
        grouped = re.search(r"\bby \(([^)]*)\)", query.expression)
        if grouped:
            left = {label.strip() for label in grouped.group(1).split(",")}
            assert set(re.findall(r"{{(\w+)}}", query.legend)) <= left, title


def test_the_articles_panels_are_on_the_first_dashboard() -> None:
    titles = [panel["title"] for panel in panels(json.loads(FILES["grafana/dashboards/headrace-overview.json"]))]
    assert {"Request Latency (p99)", "Throughput (req/s)", "Active Replicas"} <= set(titles)


def test_links_lead_to_dashboards_that_are_exported() -> None:
    for path, text in FILES.items():
        for uid in re.findall(r'"/d/([\w-]+)', text):
            assert f"grafana/dashboards/{uid}.json" in FILES, path


@pytest.mark.parametrize("prefix", ["", "ray_", "own:"])
def test_every_metric_of_headrace_gets_the_prefix_and_no_other(prefix: str) -> None:
    for path, text in monitoring_files(prefix).items():
        for name in re.findall(r"[\w:]*\bserve_(?!llm)\w+|[\w:]*serve_llm_\w+", text):
            assert re.fullmatch(rf"{prefix}serve_\w+", name), (path, name)
        assert "ray_vllm" not in text
    assert with_prefix("rate(serve_a[1m]) / my_serve_b", "p_") == "rate(p_serve_a[1m]) / my_serve_b"


def test_nothing_is_left_to_fill_in_and_everything_parses() -> None:
    for path, text in monitoring_files("x_", ["gpu1:9000", "[::1]:9000"]).items():
        assert not re.search(r"@[A-Z_]+@", text), path
        if path.endswith(".json"):
            json.loads(text)
        elif path.endswith((".yml", ".yaml")):
            assert yaml.safe_load(text)


def test_targets_are_scraped_and_their_port_is_where_discovered_machines_are_asked() -> None:
    files = monitoring_files(targets=["gpu1:9000", "gpu2:9001"])
    config = yaml.safe_load(files["prometheus/prometheus.yml"])
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["gpu1:9000", "gpu2:9001"]}]
    assert '"${1}:9000"' in files["prometheus/prometheus-ray.yml"]
    assert '"${1}:9000"' in files["prometheus/prometheus-kubernetes.yml"]


def test_the_operators_rules_are_the_same() -> None:
    rules = yaml.safe_load(FILES["prometheus/headrace.rules.yml"])
    assert yaml.safe_load(FILES["kubernetes/prometheus-rule.yaml"])["spec"] == rules


def test_alerts_say_where_it_is_and_what_to_do() -> None:
    names = [alert.name for alert in alerts(Objectives())]
    assert len(set(names)) == len(names)
    for alert in alerts(Objectives()):
        assert alert.advice.endswith((".", "?")) and "$labels" in alert.summary
        grouped = [set(re.split(r",\s*", labels)) for labels in re.findall(r"\bby \(([^)]*)\)", alert.expression)]
        for label in re.findall(r"\$labels\.(\w+)", alert.summary + alert.advice):
            assert all(label in labels | OF_SCRAPES for labels in grouped), (alert.name, label)
            assert label in FILES["README.md"]


def test_objectives_are_where_panels_turn_red_and_alerts_fire() -> None:
    files = monitoring_files(objectives=Objectives(p99_ms=321, error_share=0.07))
    rules = files["prometheus/headrace.rules.yml"]
    assert "> 321" in rules and "> 0.07" in rules
    assert '"value": 321' in files["grafana/dashboards/headrace-overview.json"]
