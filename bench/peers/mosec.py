"""Mosec: a Rust HTTP front with batching, and Python workers behind it."""

from __future__ import annotations

from pathlib import Path

from bench.peer import APPS, Peer, Request
from bench.workload import Workload


def command(python: Path, workload: Workload, port: int) -> list[str]:
    environment = [f"MOSEC_PORT={port}", f"BENCH_SIZE={workload.size}"]
    return ["env", *environment, str(python), str(APPS / "mosec_api.py"), workload.app]


def requests(workload: Workload) -> list[Request]:
    return [Request("POST", "/inference", workload.body or "{}")]


MOSEC = Peer(
    name="mosec",
    title="Mosec",
    distribution="mosec",
    apps=frozenset({"noop", "noop-sync", "chain", "sse", "array", "batch"}),
    command=command,
    environment="mosec",
    requirements=("mosec", "numpy"),
    variables={"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_LOG_LEVEL": "warning", "MOSEC_PATH": "{scratch}/mosec"},
    requests=requests,
    note="handlers are synchronous only; a chain is two stages",
)
