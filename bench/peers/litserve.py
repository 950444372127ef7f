"""LitServe: FastAPI in front, worker processes behind a queue."""

from __future__ import annotations

from pathlib import Path

from bench.peer import APPS, Peer, Request
from bench.workload import Workload


def command(python: Path, workload: Workload, port: int) -> list[str]:
    return [str(python), str(APPS / "litserve_api.py"), workload.app, str(port)]


def requests(workload: Workload) -> list[Request]:
    return [Request("POST", "/", workload.body or "{}")]


LITSERVE = Peer(
    name="litserve",
    title="LitServe",
    distribution="litserve",
    apps=frozenset({"noop", "noop-sync", "sse", "batch"}),
    command=command,
    environment="litserve",
    requirements=("litserve", "numpy"),
    requests=requests,
)
