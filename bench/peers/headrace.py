"""Headrace, as it is in the environment that runs the suite."""

from __future__ import annotations

from pathlib import Path

from bench.peer import APPS, Peer
from bench.workload import WORKLOADS, Workload


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
