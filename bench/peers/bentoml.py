"""BentoML: one process per service, HTTP between them."""

from __future__ import annotations

from pathlib import Path

from bench.peer import APPS, Peer, Request
from bench.workload import Workload

_SERVICES = {
    "noop": "NoOp",
    "noop-sync": "NoOpSync",
    "chain": "Chain",
    "fanout": "FanOut",
    "sse": "Stream",
    "array": "SendArray",
    "batch": "Batch",
}


def command(python: Path, workload: Workload, port: int) -> list[str]:
    service = f"bentoml_api:{_SERVICES[workload.app]}"
    serve = [str(python), "-m", "bentoml", "serve", service, "--working-dir", str(APPS)]
    return ["env", f"BENCH_SIZE={workload.size}", *serve, "--host", "127.0.0.1", "--port", str(port)]


def requests(workload: Workload) -> list[Request]:
    body = '{"x": [21.0]}' if workload.app == "batch" else "{}"
    return [Request("POST", "/", body)]


BENTOML = Peer(
    name="bentoml",
    title="BentoML",
    distribution="bentoml",
    apps=frozenset(_SERVICES),
    command=command,
    environment="bentoml",
    requirements=("bentoml", "numpy"),
    variables={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{scratch}/bentoml"},
    requests=requests,
)
