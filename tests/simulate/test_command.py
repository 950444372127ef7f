"""`headrace simulate autoscaling`: what it takes, prints and writes, and how it tells what is wrong."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import app

CONFIG = """
applications:
- import_path: nowhere:app
  deployments:
  - name: Sentiment
    max_ongoing_requests: 8
    autoscaling_config: {min_replicas: 2, max_replicas: 20, upscale_delay_s: 5}
  - name: Fixed
    num_replicas: 3
"""
CODE = """
import headrace as serve

@serve.deployment(max_ongoing_requests=7, autoscaling_config={"min_replicas": 3, "max_replicas": 9})
class Model:
    def __call__(self) -> None: ...

app = Model.bind()
"""


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", "autoscaling", *arguments], env={"COLUMNS": "200"})


def words(result: Result) -> str:
    """The output, wherever its lines break."""
    return " ".join(result.output.split())


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "serve.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_the_help_has_examples() -> None:
    result = simulate("--help")
    assert result.exit_code == 0
    assert "$ headrace simulate autoscaling" in words(result)


def test_a_deployment_of_a_config_file_is_simulated_with_its_own_settings(config: str) -> None:
    result = simulate(config, "--trace", "steps", "--peak", "60")
    assert result.exit_code == 0, result.output
    assert "Sentiment under the trace 'steps': 25 min, up to 60 requests/s" in words(result)
    assert "2 to 20 replicas" in words(result)
    assert "works on 8 of up to 8 requests" in words(result)
    assert "so for upscale_delay_s=5 s" in words(result)


def test_options_on_the_command_line_win_over_the_file(config: str) -> None:
    result = simulate(config, "max_replicas=4", "max_ongoing_requests=3", "--trace", "ramp")
    assert result.exit_code == 0, result.output
    assert "2 to 4 replicas" in words(result)
    assert "works on 3 of up to 3 requests" in words(result)


def test_settings_in_the_code_are_found_where_a_file_or_an_import_path_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "simulated_model.py").write_text(CODE)
    (tmp_path / "serve.yaml").write_text("applications:\n- import_path: simulated_model:app\n")
    for target in ("simulated_model:app", str(tmp_path / "serve.yaml")):
        result = simulate(target, "--app-dir", str(tmp_path), "--trace", "steps")
        assert result.exit_code == 0, result.output
        assert "Model under the trace" in words(result)
        assert "3 to 9 replicas" in words(result)
        assert "of up to 7 requests" in words(result)


def test_the_chart_and_every_figure_over_time_are_written(tmp_path: Path) -> None:
    load = tmp_path / "load.csv"
    load.write_text("time_s,requests_per_s\n0,5\n30,0\n60,40\n")
    chart, series = tmp_path / "chart.png", tmp_path / "series.csv"
    result = simulate(
        "min_replicas=0", "max_replicas=5", "-t", str(load), "-o", str(chart), "--series", str(series), "-c", "1"
    )
    assert result.exit_code == 0, result.output
    assert chart.read_bytes().startswith(b"\x89PNG")
    with series.open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["time_s"]) == 90
    assert rows[0].keys() >= {"load", "target", "running", "queued", "ongoing", "refused", "latency_p99_s"}
    assert "a request came while there was no replica" in words(result)


def test_the_list_of_decisions_is_as_long_as_asked_for() -> None:
    some = simulate("max_replicas=30", "-t", "ramp", "--decisions", "1").output
    assert some.count("→") == 1
    assert "more: --decisions" in some
    assert "→" not in simulate("max_replicas=30", "-t", "ramp", "--decisions", "0").output


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    result = simulate("max_replicas=2", "-o", str(tmp_path / "chart.png"))
    assert result.exit_code == 1
    assert "pip install 'headrace[simulate]'" in words(result)
    assert simulate("max_replicas=2", "-t", "ramp").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["max_replica=3"], "did you mean 'max_replicas'?"),
        (["max_replicas=0"], "max_replicas"),
        (["min_replicas=3", "max_replicas=2"], "max_replicas (2) must be at least min_replicas (3)"),
        (["-t", "stesp"], "did you mean 'steps'?"),
        (["-t", "none.csv"], "there is no file 'none.csv'"),
        (["--service-time", "0"], "--service-time: must be above 0"),
        (["--start-time", "-1"], "--start-time: must be 0 or more"),
        (["{config}", "-n", "Sentimant"], "did you mean 'Sentiment'?"),
        (["{config}", "other.yaml"], "give one config file or import path"),
        (["-t", "ramp", "-o", "chart.txt"], "--output: the name must end in"),
    ],
)
def test_mistakes_are_told(config: str, arguments: list[str], says: str) -> None:
    result = simulate(*(argument.replace("{config}", config) for argument in arguments))
    assert result.exit_code == 1, result.output
    assert says in words(result)


def test_a_deployment_with_a_fixed_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(CONFIG.replace("num_replicas: 3", "autoscaling_config: {max_replicas: 2}"))
    result = simulate(str(path))
    assert result.exit_code == 1
    assert "has 2 deployments that autoscale; choose one: --deployment Sentiment" in words(result)
