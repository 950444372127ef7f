"""What `headrace metrics export` writes, in a real Prometheus that scrapes a running instance with load and faults."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import headrace as serve
from headrace import client as driver
from headrace.llm import LLMConfig, build_openai_app
from headrace.observe.monitoring.alerts import alerts
from headrace.observe.monitoring.bundle import dashboards, monitoring_files
from headrace.observe.monitoring.description import Objectives
from headrace.observe.monitoring.llm_dashboard import NO_VLLM
from headrace.observe.monitoring.queries import with_prefix

from .conditions import until
from .prometheus_server import ask, closed_port, needs_prometheus, needs_promtool, numbers, prometheus_server
from .test_prometheus import QUERIES

pytestmark = [pytest.mark.full, needs_prometheus]

NOT_PROVOKED = {
    "HeadraceProcessesUnanswered": "the process would have to be stopped for minutes, and is replaced before that",
}
"""Alerts that are tried with promtool only; see tests/observe/test_alert_rules.py."""


@serve.deployment(max_ongoing_requests=50)
class Busy:
    """Batches, has models, calls another deployment, and fails now and then."""

    def __init__(self, scaled: Any) -> None:
        self.scaled = scaled

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.002)
    async def double(self, numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    @serve.multiplexed(max_num_models_per_replica=1)
    async def model(self, model_id: str) -> str:
        return model_id

    async def __call__(self, request: Any) -> int:
        if "fail" in request.query_params:
            raise KeyError("no such word")
        await self.model(request.query_params["model"])
        await self.scaled.remote()
        return await self.double(21)  # type: ignore[return-value]


@serve.deployment(
    max_ongoing_requests=2,
    max_queued_requests=1,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 0.5,
        "upscale_delay_s": 5,
        "metrics_interval_s": 0.1,
        "look_back_period_s": 1,
    },
)
class Scaled:
    """Asks for more replicas than it may have, and refuses what is too much."""

    async def __call__(self) -> None:
        await asyncio.sleep(0.05)


@serve.deployment
class Slow:
    async def __call__(self) -> str:
        await asyncio.sleep(1.5)
        return "at last"


@serve.deployment(max_ongoing_requests=1)
class Blocking:
    async def __call__(self) -> str:
        time.sleep(8)  # noqa: ASYNC251 - what nobody should do
        return "done"


@serve.deployment(health_check_period_s=0.3)
class Sick:
    def __init__(self, from_then_on: str) -> None:
        self.from_then_on = Path(from_then_on)

    def check_health(self) -> None:
        if self.from_then_on.exists():
            raise RuntimeError("I feel sick")

    def __call__(self) -> str:
        return "cough"


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise RuntimeError("no weights")


@serve.deployment
class Starting:
    def __init__(self, until_there: str) -> None:
        while not Path(until_there).exists():
            time.sleep(0.05)


class Load:
    """Calls functions again and again, each in a thread of its own, until it is ended."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def add(self, call: Callable[[], object]) -> None:
        def again() -> None:
            while not self._ended.is_set():
                try:
                    call()
                except httpx.TransportError:
                    self._ended.wait(0.1)
                self._ended.wait(0.01)

        thread = threading.Thread(target=again)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def stream(client: httpx.Client, model: str) -> None:
    request = {"model": model, "messages": [{"role": "user", "content": "hello " * 200}], "stream": True}
    with client.stream("POST", "/llm/v1/chat/completions", json={**request, "max_tokens": 8}) as response:
        response.read()


@pytest.fixture
def load(http: httpx.Client, tmp_path: Path) -> Iterator[Load]:
    """All that there may be to see, until the test ends."""
    one = LLMConfig(model="m", llm_engine="simulated", max_num_seqs=1, time_per_output_token_s=0.02)
    load = Load()
    try:
        serve.run(Busy.bind(Scaled.bind()), name="busy", route_prefix="/busy")
        serve.run(Slow.bind(), name="slow", route_prefix="/slow")
        serve.run(Blocking.bind(), name="blocking", route_prefix="/blocking")
        serve.run(build_openai_app({"llm_configs": [one]}), name="llm", route_prefix="/llm")
        serve.run(Sick.bind(str(tmp_path / "sick")), name="sick", route_prefix="/sick")
        failing = [
            serve.RunTarget(Broken.bind(), name="broken", route_prefix="/broken"),
            serve.RunTarget(Starting.bind(str(tmp_path / "there")), name="starting", route_prefix="/starting"),
        ]
        serve.run_many(failing, wait_for_applications_running=False)
        (tmp_path / "sick").touch()
        for number in range(8):
            load.add(lambda number=number: http.get(f"/busy?model={number % 2}"))  # type: ignore[misc]
        load.add(lambda: (http.get("/busy?fail=1"), threading.Event().wait(0.5)))
        load.add(lambda: http.get("/slow"))
        load.add(lambda: http.get("/blocking"))
        for _ in range(5):
            load.add(lambda: stream(http, "m"))
        yield load
    finally:
        (tmp_path / "there").touch()
        load.end()


@pytest.fixture
def prometheus(instance: driver.Client, tmp_path: Path) -> Iterator[httpx.Client]:
    """With what is exported, but scraping more often, and with rules that do not wait."""
    proxy = (instance.http_url or "").removeprefix("http://")
    files = monitoring_files(targets=[proxy, f"127.0.0.1:{closed_port()}"])
    config = yaml.safe_load(files["prometheus/prometheus.yml"])
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load(files["prometheus/headrace.rules.yml"])
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    (tmp_path / "headrace.rules.yml").write_text(yaml.safe_dump(rules))
    with prometheus_server(tmp_path / "prometheus.yml", tmp_path / "data") as client:
        yield client


def firing(prometheus: httpx.Client) -> set[str]:
    alerts = prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def chosen(expression: str) -> str:
    """A dashboard's query as Grafana asks it when everything is chosen."""
    for name in ("application", "deployment", "replica", "model"):
        expression = expression.replace(f"${name}", ".*")
    return with_prefix(expression, "ray_").replace("$__rate_interval", "30s")


@pytest.mark.timeout(400)
def test_every_panel_has_data_under_load_and_every_alert_fires_when_provoked(
    prometheus: httpx.Client, load: Load
) -> None:
    until(lambda: ask(prometheus, 'up{job="headrace"} == 1'), 60)
    wanted = {
        (f"{dashboard.uid}: {title}", chosen(query.expression))
        for dashboard in dashboards(Objectives())
        for title, query in dashboard.queries()
        if query.quiet != NO_VLLM  # the names are compared with vLLM's, where that is installed
    }
    for dashboard in dashboards(Objectives()):
        for variable in dashboard.variables:
            series = chosen(f"{variable.metric}{{{variable.where}}}")
            wanted.add((f"{dashboard.uid}: ${variable.name}", f"count by ({variable.label}) ({series})"))
    of_models = {query for query in QUERIES if "_llm_" in query}
    assert len(of_models) >= 5
    wanted |= {("the guide", q) for q in of_models if "overloaded" not in q and "cached" not in q}  # not provoked
    provoked = {alert.name for alert in alerts(Objectives())} - set(NOT_PROVOKED)
    seen: set[str] = set()

    def everything_has_been_seen() -> bool:
        seen.update(firing(prometheus))
        wanted.difference_update({(title, query) for title, query in wanted if numbers(prometheus, query)})
        return not wanted and provoked <= seen

    try:
        until(everything_has_been_seen, 150)
    except AssertionError:
        missing = sorted(wanted)
        raise AssertionError(f"without data: {missing}; not firing: {provoked - seen}") from None
    for alert in alerts(Objectives()):
        ask(prometheus, with_prefix(alert.expression, "ray_"))


@pytest.mark.timeout(200)
def test_nothing_fires_where_all_is_well(
    instance: driver.Client, http: httpx.Client, prometheus: httpx.Client, tmp_path: Path
) -> None:
    serve.run(Busy.bind(Slow.options(name="Quick").bind()), name="busy", route_prefix="/busy")
    until(lambda: ask(prometheus, "ray_serve_deployment_status == 6"), 60)
    for _ in range(3):
        until(lambda: len(ask(prometheus, "ray_serve_deployment_status == 6")) == 2)
    assert firing(prometheus) <= {"HeadraceDown"}  # for the target that is not there


@needs_promtool
def test_promtool_finds_no_fault_with_what_is_exported(tmp_path: Path) -> None:
    for path, text in monitoring_files().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    folder = tmp_path / "prometheus"
    # Debian's Prometheus is built without Kubernetes: the rest of that config is looked at.
    config = yaml.safe_load((folder / "prometheus-kubernetes.yml").read_text())
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": ["pod:8000"]}]
        assert job.pop("kubernetes_sd_configs")[0]["role"] == "pod"
    (folder / "prometheus-kubernetes.yml").write_text(yaml.safe_dump(config))
    for name in ("prometheus.yml", "prometheus-ray.yml", "prometheus-kubernetes.yml"):
        checked = subprocess.run(
            ["promtool", "check", "config", str(folder / name)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", str(folder / "headrace.rules.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
