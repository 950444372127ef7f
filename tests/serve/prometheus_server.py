"""A real Prometheus, and what it answers."""

from __future__ import annotations

import contextlib
import math
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian's package of that name)"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, which comes with Prometheus (Debian's package prometheus)"
)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def prometheus_server(config: Path, data: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus with this config. It answers in a moment."""
    port = closed_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


def ask(prometheus: httpx.Client, query: str) -> list[Any]:
    """The result of an instant query."""
    try:
        answer = prometheus.get("/api/v1/query", params={"query": query}).json()
    except httpx.TransportError:
        return []  # it has not started yet
    if answer.get("status") != "success":
        assert "not ready" in str(answer).lower(), (query, answer)
        return []
    result: list[Any] = answer["data"]["result"]
    return result


def numbers(prometheus: httpx.Client, query: str) -> list[float]:
    """The values of an instant query that are numbers."""
    values = [float(sample["value"][1]) for sample in ask(prometheus, query)]
    return [value for value in values if not math.isnan(value)]
