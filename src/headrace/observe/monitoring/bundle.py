"""Everything that is exported, as files: their paths and their texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from headrace.observe.monitoring.alerts import rule_groups
from headrace.observe.monitoring.deployment_dashboard import deployment
from headrace.observe.monitoring.description import Dashboard, Objectives
from headrace.observe.monitoring.grafana import render
from headrace.observe.monitoring.llm_dashboard import llm
from headrace.observe.monitoring.overview_dashboard import overview

DEFAULT_TARGET = "localhost:8000"

_TEXTS = {
    "README.md": "README.md",
    "compose.yaml": "compose.yaml",
    "prometheus/prometheus.yml": "prometheus.yml",
    "prometheus/prometheus-ray.yml": "prometheus-ray.yml",
    "prometheus/prometheus-kubernetes.yml": "prometheus-kubernetes.yml",
    "kubernetes/pod-monitor.yaml": "pod-monitor.yaml",
    "grafana/provisioning/datasources/headrace.yml": "datasource.yml",
    "grafana/provisioning/dashboards/headrace.yml": "dashboards.yml",
}


def dashboards(objectives: Objectives) -> tuple[Dashboard, ...]:
    return (overview(objectives), deployment(objectives), llm(objectives))


def monitoring_files(
    prefix: str = "ray_", targets: Sequence[str] = (DEFAULT_TARGET,), objectives: Objectives | None = None
) -> dict[str, str]:
    """The texts of all files, by their paths.

    Args:
        prefix: of the names of metrics, as the instance has it.
        targets: where proxies answer, as `host:port`. The first one's port is the one that discovered machines are
            asked at.
        objectives: what is good enough.
    """
    objectives = objectives or Objectives()
    rules = rule_groups(objectives, prefix)
    filled = {
        "@TARGETS@": json.dumps(list(targets)),
        "@TARGET_LIST@": ", ".join(f"`{target}`" for target in targets),
        "@PORT@": targets[0].rpartition(":")[2],
        "@PREFIX@": prefix,
        "@ALERTS@": "\n".join(
            f"| `{rule['alert']}` | {rule['labels']['severity']} | `{rule['expr'].replace('|', chr(92) + '|')}`"
            + (f" for {rule['for']} |" if rule["for"] != "0m" else " |")
            for rule in rules["groups"][0]["rules"]
        ),
    }
    texts = {path: _filled(_text(name), filled) for path, name in _TEXTS.items()}
    texts["prometheus/headrace.rules.yml"] = _yaml(rules)
    texts["kubernetes/prometheus-rule.yaml"] = _yaml(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "headrace", "labels": {"release": "prometheus"}},
            "spec": rules,
        }
    )
    for dashboard in dashboards(objectives):
        texts[f"grafana/dashboards/{dashboard.uid}.json"] = json.dumps(render(dashboard, prefix), indent=2) + "\n"
    return texts


def _text(name: str) -> str:
    return (resources.files("headrace.observe.monitoring") / "files" / name).read_text(encoding="utf-8")


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _yaml(content: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)
