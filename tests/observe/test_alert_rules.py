"""When each alert fires and when it does not, as promtool works it out from made-up series."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.observe.monitoring.alerts import alerts
from headrace.observe.monitoring.bundle import monitoring_files
from headrace.observe.monitoring.description import Objectives

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's package prometheus)"),
]

IS = 'application="a",deployment="D"'
LATENCY = "ray_serve_deployment_processing_latency_ms"
ERRORS = f'ray_serve_deployment_error_counter_total{{{IS},exception_type="KeyError"}}'
LEFT = f'ray_serve_deployment_error_counter_total{{{IS},exception_type="CancelledError"}}'
WORKED = f"{LATENCY}_count{{{IS}}}"
OK, BAD = (
    f'ray_serve_num_http_requests_total{{application="a",route="/",status_code="{code}"}}' for code in (200, 500)
)
SERVING = f"ray_serve_deployment_replica_healthy_total{{{IS}}}"
WANTED = f"ray_serve_autoscaling_target_replicas{{{IS}}}"
FAILED = f'ray_serve_deployment_replica_failures_total{{{IS},cause="crash"}}'
STATUS = f"ray_serve_deployment_status{{{IS}}}"
DESIRED, HIGHEST = (f"ray_serve_autoscaling_{which}_replicas{{{IS}}}" for which in ("desired", "max"))
REFUSED = f"ray_serve_deployment_refused_requests_total{{{IS}}}"
BLOCKED = f'ray_serve_event_loop_blocked_seconds{{{IS},replica="r"}}'
UNANSWERED = 'ray_serve_metrics_unanswered{instance="h:1"}'
CACHE, WAITING, RUNNING = (
    f'ray_serve_llm_{name}{{{IS},replica="r",model="m"}}'
    for name in ("kv_cache_use", "requests_waiting", "requests_running")
)


def slow(le: float | str) -> str:
    return f'{LATENCY}_bucket{{{IS},le="{le}"}}'


# Per alert: series, by the minute, and after how many minutes it must fire.
FIRES: dict[str, tuple[dict[str, str], str]] = {
    "HeadraceErrorRate": ({ERRORS: "0+6x20", WORKED: "0+100x20"}, "12m"),
    "HeadraceHttpErrorRate": ({BAD: "0+6x20", OK: "0+94x20"}, "12m"),
    "HeadraceLatencyP99": ({slow(1000): "0+98x30", slow(2000): "0+100x30", slow("+Inf"): "0+100x30"}, "20m"),
    "HeadraceNoHealthyReplica": ({SERVING: "0x10", WANTED: "2x10"}, "2m"),
    "HeadraceReplicasMissing": ({SERVING: "1x30", WANTED: "2x30"}, "16m"),
    "HeadraceCrashLoop": ({FAILED: "0 0 1 2 3 4 4 4"}, "7m"),
    "HeadraceDeployFailed": ({STATUS: "1x10"}, "2m"),
    "HeadraceUnhealthy": ({STATUS: "2x10"}, "6m"),
    "HeadraceSaturatedAtMaxReplicas": ({DESIRED: "9x20", HIGHEST: "4x20"}, "11m"),
    "HeadraceRequestsRefused": ({REFUSED: "0+1x20"}, "8m"),
    "HeadraceEventLoopBlocked": ({BLOCKED: "6x10"}, "2m"),
    "HeadraceDown": ({'up{job="headrace",instance="h:1"}': "0x10", 'up{job="headrace",instance="h:2"}': "1x10"}, "2m"),
    "HeadraceProcessesUnanswered": ({UNANSWERED: "1x10"}, "6m"),
    "HeadraceLlmKvCacheFull": ({CACHE: "0.99x20"}, "11m"),
    "HeadraceLlmRequestsWait": ({WAITING: "9x20", RUNNING: "8x20"}, "11m"),
}

QUIET: dict[str, dict[str, str]] = {
    "few errors": {ERRORS: "0+4x30", WORKED: "0+100x30"},
    "clients that leave": {LEFT: "0+50x30", WORKED: "0+100x30"},
    "no traffic": {WORKED: "100x30", OK: "5x30", slow(1000): "7x30"},
    "quick answers": {slow(1000): "0+100x30", slow("+Inf"): "0+100x30"},
    "asleep on purpose": {SERVING: "0x30", WANTED: "0x30"},
    "one that is replaced": {SERVING: "2x5 1x5 2x20", WANTED: "2x30", FAILED: "0x5 1x25"},
    "an update": {STATUS: "6x3 3x8 6x20"},
    "at the maximum, and that is enough": {DESIRED: "4x30", HIGHEST: "4x30"},
    "a machine without a proxy": {
        'up{job="headrace-ray",instance="h:1"}': "0x30",
        'up{job="headrace-ray",instance="h:2"}': "1x30",
    },
    "a full engine where nobody waits": {CACHE: "0.9x30", WAITING: "0x30", RUNNING: "8x30"},
}


def firing(folder: Path, series: dict[str, str], moments: list[tuple[str, str]]) -> tuple[bool, str]:
    """Whether promtool finds that one of these alerts fires at its moment, and what it says."""
    (folder / "rules.yml").write_text(monitoring_files()["prometheus/headrace.rules.yml"])
    values = [{"series": name, "values": value} for name, value in series.items()]
    test: dict[str, Any] = {"interval": "1m", "input_series": values}
    # Expecting nothing: what fires is a failed test, and promtool shows it with its labels.
    test["alert_rule_test"] = [{"eval_time": at, "alertname": alert, "exp_alerts": []} for alert, at in moments]
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(folder / "test.yml")], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in said, said
    return done.returncode != 0, said


def test_every_alert_is_tried() -> None:
    assert set(FIRES) == {alert.name for alert in alerts(Objectives())}


@pytest.mark.parametrize("alert", FIRES)
def test_it_fires_when_something_is_wrong_for_long_enough(tmp_path: Path, alert: str) -> None:
    series, at = FIRES[alert]
    fires, said = firing(tmp_path, series, [(alert, at)])
    assert fires
    assert f'alertname="{alert}"' in said and "severity=" in said
    assert "<no value>" not in said and "error expanding" not in said.lower(), said
    assert not firing(tmp_path, series, [(alert, "0m")])[0]


@pytest.mark.parametrize("case", QUIET)
def test_nothing_fires_where_all_is_well(tmp_path: Path, case: str) -> None:
    fires, said = firing(tmp_path, QUIET[case], [(alert, at) for alert in FIRES for at in ("6m", "12m", "28m")])
    assert not fires, said
