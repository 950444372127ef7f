"""A real Prometheus scrapes a running server, and answers the guide's queries."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import until
from .prometheus_server import ask, needs_prometheus, needs_promtool, prometheus_server

pytestmark = [pytest.mark.full, needs_prometheus]

GUIDE = Path(__file__).parents[2] / "docs" / "metrics.md"
QUERIES = re.findall(r"^\| [\w ,%'’]+ \| `(.*ray_.*)` \|$", GUIDE.read_text(), re.MULTILINE)
ARTICLE = [
    "histogram_quantile(0.99, rate(ray_serve_deployment_processing_latency_ms_bucket[5m]))",
    "rate(ray_serve_deployment_request_counter[1m])",
    "ray_serve_deployment_replica_healthy_total",
    "ray_serve_deployment_error_counter",
    "ray_serve_deployment_replica_starts",
    "ray_serve_num_ongoing_requests",
]
QUIET = ("refused", "failures", "blocked", "_llm_")
"""What of the queries has nothing to tell where all goes well; those of models are asked in test_monitoring.py."""


@serve.deployment(num_replicas=2)
class Worker:
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.002)
    async def double(self, numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    async def __call__(self, request: Any) -> int:
        if "fail" in request.query_params:
            raise KeyError("no such word")
        return await self.double(21)  # type: ignore[return-value]


@pytest.fixture
def prometheus(instance: driver.Client, tmp_path: Path) -> Iterator[httpx.Client]:
    target = (instance.http_url or "").removeprefix("http://")
    job = f"{{job_name: headrace, metrics_path: /-/metrics, static_configs: [{{targets: ['{target}']}}]}}"
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs: [{job}]\n"
    )
    with prometheus_server(tmp_path / "prometheus.yml", tmp_path / "data") as client:
        yield client


def test_the_guide_has_queries() -> None:
    assert len(QUERIES) >= 10


@pytest.mark.timeout(180)
def test_prometheus_takes_the_scrape_and_every_query_returns_data(
    http: httpx.Client, instance: driver.Client, prometheus: httpx.Client
) -> None:
    serve.run(Worker.bind())
    done = False

    def load() -> None:
        while not done:
            httpx.get(instance.http_url or "", timeout=30)
            httpx.get(f"{instance.http_url}/?fail=1", timeout=30)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(load) for _ in range(2)]
        try:
            until(lambda: ask(prometheus, 'up{job="headrace"} == 1'), 60)
            for query in [*ARTICLE, *(query for query in QUERIES if not any(word in query for word in QUIET))]:
                until(lambda query=query: ask(prometheus, query), 30)  # type: ignore[misc]
            for query in QUERIES:
                ask(prometheus, query)
        finally:
            done = True
        for future in futures:
            future.result()
    targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert [target["lastError"] for target in targets] == [""]


@needs_promtool
def test_promtool_finds_no_fault_with_the_text_itself(http: httpx.Client) -> None:
    serve.run(Worker.bind())
    http.get("/")
    text = http.get("/-/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # It has opinions on names, which are Ray Serve's; what it cannot parse is another matter.
    assert "error while linting" not in checked.stderr and checked.returncode in (0, 3), checked.stderr
