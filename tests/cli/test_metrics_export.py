"""`headrace metrics export`"""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import app


def export(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["metrics", "export", *arguments], env={"COLUMNS": "200", **environment})


def test_the_folder_holds_everything_afterwards(tmp_path: Path) -> None:
    result = export(str(tmp_path / "a" / "monitoring"))
    assert result.exit_code == 0 and "README.md" in result.output
    written = {str(path.relative_to(tmp_path / "a" / "monitoring")) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"README.md", "compose.yaml", "prometheus/prometheus.yml", "prometheus/headrace.rules.yml"} <= written
    assert "grafana/dashboards/headrace-overview.json" in written
    assert '["localhost:8000"]' in (tmp_path / "a" / "monitoring" / "prometheus" / "prometheus.yml").read_text()


def test_what_was_changed_is_overwritten_by_force_only(tmp_path: Path) -> None:
    assert export(str(tmp_path)).exit_code == 0
    assert export(str(tmp_path)).exit_code == 0  # nothing is lost by that
    rules = tmp_path / "prometheus" / "headrace.rules.yml"
    original = rules.read_text()
    rules.write_text("groups: []\n")
    (tmp_path / "compose.yaml").unlink()
    refused = export(str(tmp_path))
    assert refused.exit_code == 1 and "--force" in refused.output and str(rules) in refused.output
    assert rules.read_text() == "groups: []\n" and not (tmp_path / "compose.yaml").exists()
    assert export(str(tmp_path), "--force").exit_code == 0
    assert rules.read_text() == original


def test_the_instances_prefix_is_taken_from_where_the_instance_takes_it(tmp_path: Path) -> None:
    rules = tmp_path / "prometheus" / "headrace.rules.yml"
    assert export(str(tmp_path), HEADRACE_METRICS_PREFIX="own_").exit_code == 0
    assert "own_serve_deployment_status" in rules.read_text() and "ray_" not in rules.read_text()
    assert export(str(tmp_path), "--prefix", "", "--force", HEADRACE_METRICS_PREFIX="own_").exit_code == 0
    assert "own_" not in rules.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "localhost"], "HOST:PORT"),
        (["--target", "http://localhost:8000"], "HOST:PORT"),
        (["--target", "localhost:80000"], "HOST:PORT"),
        (["--prefix", "1_"], "metrics_prefix"),
        (["--p99-ms", "0"], "--p99-ms"),
        (["--error-percent", "100"], "--error-percent"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = export(str(tmp_path / "m"), *arguments)
    assert result.exit_code == 1 and said in result.output
    assert not (tmp_path / "m").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = export(str(tmp_path / "file"))
    assert result.exit_code == 1 and str(tmp_path / "file") in result.output


def test_help_has_examples() -> None:
    assert "$ headrace metrics export" in export("--help").output
