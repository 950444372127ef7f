"""What clients feel of rolling updates: `python -m bench.rolling_update`.

Loads an application for a while as it is, then for as long while one update follows the other, and tells how many
requests failed and what became of latency. The application waits 20 ms per request and runs in four replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

import headrace as serve
from bench.peer import Request
from bench.wrk import Load, run
from headrace import client

WORK_S = 0.02


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}, graceful_shutdown_wait_loop_s=0.1)
class Model:
    def __init__(self, generation: int) -> None:
        self.generation = generation

    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(WORK_S)
        return str(self.generation)


class Updates:
    """Deploys the next generation as soon as the last one runs and its predecessor is gone."""

    def __init__(self, replicas: int) -> None:
        self.generation = 0
        self.seconds: list[float] = []
        self._model = Model.options(num_replicas=replicas)
        self._stop = threading.Event()

    def deploy(self) -> None:
        began = time.monotonic()
        self.generation += 1
        serve.run(self._model.bind(self.generation))
        replicas = self._model.num_replicas
        client.find().wait_until(lambda status: len(status.applications[0].deployments[0].replicas) == replicas)
        self.seconds.append(time.monotonic() - began)

    def go_on(self) -> None:
        while not self._stop.is_set():
            self.deploy()

    def stop(self) -> None:
        self._stop.set()


def measure(replicas: int, connections: int, duration_s: float) -> dict[str, Any]:
    """The figures of one instance, which ends afterwards."""
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    try:
        updates = Updates(replicas)
        updates.deploy()
        port = client.find().session.http[1]
        requests = [Request(path="/")]
        run(port, requests, connections, 2.0)  # warms up
        steady = run(port, requests, connections, duration_s)
        updates.seconds.clear()
        thread = threading.Thread(target=updates.go_on, name="updates")
        thread.start()
        try:
            updating = run(port, requests, connections, duration_s)
        finally:
            updates.stop()
            thread.join()
    finally:
        serve.shutdown()
    return {
        "replicas": replicas,
        "connections": connections,
        "work_ms": WORK_S * 1000,
        "updates": len(updates.seconds),
        "update_s": round(statistics.median(updates.seconds), 2),
        "steady": figures(steady),
        "updating": figures(updating),
        "p99_ratio": round(updating.p99_ms / steady.p99_ms, 2),
        "load_average": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }


def figures(load: Load) -> dict[str, Any]:
    return {
        "requests": load.requests,
        "failed": load.errors,
        "requests_per_s": round(load.requests_per_s, 1),
        "p50_ms": round(load.p50_ms, 1),
        "p99_ms": round(load.p99_ms, 1),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['replicas']} replicas, {result['connections']} connections, {result['work_ms']:g} ms of waiting per "
        f"request; {result['updates']} updates in a row, {result['update_s']} s each",
        f"{'':<10}{'requests':>10}{'failed':>8}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    for name in ("steady", "updating"):
        row = result[name]
        lines.append(
            f"{name:<10}{row['requests']:>10}{row['failed']:>8}{row['requests_per_s']:>10}"
            f"{row['p50_ms']:>9}{row['p99_ms']:>9}"
        )
    return "\n".join([*lines, f"p99 while updating is {result['p99_ratio']} times that of steady operation"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of each of the two measurements")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hb-") as folder:
        os.environ["HEADRACE_SESSIONS"] = folder  # a running instance of the user's stays out of it
        result = measure(options.replicas, options.connections, options.duration)
    print(json.dumps(result, indent=2) if options.json else table(result))
    return 1 if result["steady"]["failed"] or result["updating"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
