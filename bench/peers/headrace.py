"""Headrace, as it is in the environment that runs the suite, and on a Ray cluster of one machine and of three."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.peer import APPS, Command, Peer
from bench.workload import WORKLOADS, Workload

_REPOSITORY = Path(__file__).parents[2]


def command(python: Path, workload: Workload, port: int) -> list[str]:
    return [str(python), str(APPS / "serve_api.py"), "headrace", workload.app, str(port), "--size", str(workload.size)]


HEADRACE = Peer(
    name="headrace",
    title="Headrace",
    distribution="headrace",
    apps=frozenset(workload.app for workload in WORKLOADS),
    command=command,
    # Sessions of the run's own, so that an instance that already runs on the machine is neither used nor disturbed.
    variables={"HEADRACE_SESSIONS": "{scratch}/s"},
)


def _on_ray(nodes: int) -> Command:
    return lambda python, workload, port: [*command(python, workload, port), "--nodes", str(nodes)]


HEADRACE_RAY = replace(
    HEADRACE,
    name="headrace-ray",
    title="Headrace on Ray",
    command=_on_ray(1),
    environment="headrace-ray",
    requirements=("-e", f"{_REPOSITORY}[ray]", "numpy"),
    variables={**HEADRACE.variables, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": "{scratch}"},
    kind="cluster",
)
HEADRACE_RAY_3 = replace(
    HEADRACE_RAY,
    name="headrace-ray-3",
    title="Headrace on Ray, 3 nodes",
    command=_on_ray(3),
    note="each hop between nodes",
)
