"""What a scrape of a running instance shows, whatever happens to its processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import prometheus_client
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

import headrace as serve
from headrace import client as driver

from .conditions import deployment, ids, running, until

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str, path: str = "/-/metrics") -> Series:
    """The samples of a scrape by name and labels, after looking at whether Prometheus would take them."""
    answer = httpx.get(url + path, timeout=10)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    described = [line.split(" ")[2] for line in answer.text.splitlines() if line.startswith("# TYPE ")]
    assert len(described) == len(set(described)), "a family twice"
    found: Series = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            assert series not in found, f"{series} twice"
            found[series] = sample.value
    return found


def value(series: Series, name: str, **labels: str) -> float:
    """The sum over the series of a name with these labels; fails where there is none."""
    found = [
        number for (known, tags), number in series.items() if known == name and labels.items() <= dict(tags).items()
    ]
    assert found, f"no {name} with {labels}"
    return sum(found)


def names(series: Series) -> set[str]:
    return {name for name, _ in series}


def never_fell(before: Series, after: Series) -> None:
    """Counters that are in both scrapes have not gone backwards."""
    for (name, labels), number in before.items():
        if name.endswith(("_total", "_count", "_bucket")) and not name.endswith("_replica_healthy_total"):
            assert after.get((name, labels), number) >= number, (name, labels)


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Worker:
    def __init__(self) -> None:
        self.words = serve.metrics.Counter("words", "Words seen.", ("language",))

    async def __call__(self, request: Any) -> int:
        self.words.inc(2, tags={"language": "fr"})
        if "fail" in request.query_params:
            raise KeyError("no such word")
        if "sleep" in request.query_params:
            await asyncio.sleep(float(request.query_params["sleep"]))
        if "block" in request.query_params:
            time.sleep(float(request.query_params["block"]))  # noqa: ASYNC251
        return os.getpid()


@pytest.fixture
def url(http: httpx.Client, instance: driver.Client) -> str:
    return instance.http_url or ""


WORKER = {"application": "default", "deployment": "Worker"}


def test_requests_are_counted_by_replica_route_and_outcome(http: httpx.Client, url: str) -> None:
    serve.run(Worker.bind(), route_prefix="/work")
    for _ in range(10):
        assert http.get("/work").status_code == 200
    for _ in range(3):
        assert http.get("/work?fail=1").status_code == 500
    assert http.get("/nowhere").status_code == 404
    seen = scrape(url)
    of_route = {**WORKER, "route": "/work"}
    assert value(seen, "ray_serve_deployment_request_counter_total", **of_route) == 10
    assert value(seen, "ray_serve_deployment_request_counter", **of_route) == 10
    assert value(seen, "ray_serve_deployment_error_counter_total", **of_route, exception_type="KeyError") == 3
    assert value(seen, "ray_serve_deployment_error_counter", **of_route) == 3
    assert value(seen, "ray_serve_deployment_processing_latency_ms_count", **of_route) == 13
    assert value(seen, "ray_serve_deployment_processing_latency_ms_bucket", **of_route, le="+Inf") == 13
    assert 0 < value(seen, "ray_serve_deployment_processing_latency_ms_sum", **of_route) < 13_000
    labels = {"application": "default", "route": "/work", "method": "GET"}
    assert value(seen, "ray_serve_num_http_requests_total", **labels, status_code="200") == 10
    assert value(seen, "ray_serve_num_http_requests_total", **labels, status_code="500") == 3
    assert value(seen, "ray_serve_num_http_error_requests_total", **labels, error_code="500") == 3
    assert value(seen, "ray_serve_num_deployment_http_error_requests_total", deployment="Worker") == 3
    assert value(seen, "ray_serve_num_http_requests_total", route="", status_code="404", application="") >= 1
    assert value(seen, "ray_serve_http_request_latency_ms_count", **labels) == 13
    assert value(seen, "ray_serve_num_router_requests_total", **WORKER) == 13
    assert value(seen, "ray_words_total", **of_route, language="fr") == 26


def test_replicas_and_deployments_tell_their_state(http: httpx.Client, url: str) -> None:
    serve.run(Worker.bind())
    seen = scrape(url)
    for replica_id in ids("Worker"):
        assert value(seen, "ray_serve_deployment_replica_healthy", **WORKER, replica=replica_id) == 1
        assert value(seen, "ray_serve_deployment_replica_starts_total", **WORKER, replica=replica_id) == 1
        assert value(seen, "ray_serve_num_ongoing_requests", **WORKER, replica=replica_id) == 0
        assert value(seen, "ray_serve_replica_processing_queries", **WORKER, replica=replica_id) == 0
        assert 0 <= value(seen, "ray_serve_replica_utilization_percent", **WORKER, replica=replica_id) < 100
        assert value(seen, "ray_serve_event_loop_blocked_seconds", **WORKER, replica=replica_id) == 0
        assert value(seen, "process_resident_memory_bytes", **WORKER, replica=replica_id) > 0
    assert value(seen, "ray_serve_deployment_replica_healthy_total", **WORKER) == 2
    assert value(seen, "ray_serve_autoscaling_target_replicas", **WORKER) == 2
    assert value(seen, "ray_serve_deployment_status", **WORKER) == 6
    assert value(seen, "ray_serve_application_status", application="default") == 6
    assert value(seen, "ray_serve_replica_startup_latency_ms_count", **WORKER) >= 2
    assert value(seen, "ray_serve_deployment_queued_queries", **WORKER) == 0
    assert value(seen, "ray_serve_metrics_unanswered") == 0


def test_the_rest_port_shows_the_same(http: httpx.Client, url: str, instance: driver.Client) -> None:
    serve.run(Worker.bind())
    status = instance.status()
    rest = f"http://{status.rest_host}:{status.rest_port}"
    assert names(scrape(rest, "/metrics")) == names(scrape(rest)) == names(scrape(url))


def test_ongoing_and_queued_requests_are_seen(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(num_replicas=1, max_ongoing_requests=2).bind())
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(httpx.get, f"{url}/?sleep=1.5", timeout=30) for _ in range(5)]
        until(lambda: value(scrape(url), "ray_serve_num_ongoing_http_requests") == 5)
        seen = scrape(url)
        assert value(seen, "ray_serve_num_ongoing_requests", **WORKER) == 2
        assert value(seen, "ray_serve_num_ongoing_requests_at_replicas", **WORKER) == 2
        assert value(seen, "ray_serve_deployment_queued_queries", **WORKER) == 3
        assert {answer.result().status_code for answer in answers} == {200}
    until(lambda: value(scrape(url), "ray_serve_num_ongoing_http_requests") == 0)


def test_refused_requests_and_clients_that_left_are_counted(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(num_replicas=1, max_ongoing_requests=1, max_queued_requests=1).bind())
    before = scrape(url)
    with ThreadPoolExecutor(2) as pool:
        impatient = pool.submit(lambda: httpx.get(f"{url}/?sleep=20", timeout=1.5))
        until(lambda: value(scrape(url), "ray_serve_num_ongoing_requests", **WORKER) == 1)
        waiting = pool.submit(lambda: httpx.get(url, timeout=30))
        until(lambda: value(scrape(url), "ray_serve_deployment_queued_queries", **WORKER) == 1)
        assert http.get("/").status_code == 503
        with pytest.raises(httpx.ReadTimeout):
            impatient.result()
        assert waiting.result().status_code == 200
    seen = scrape(url)
    actor = dict(next(labels for name, labels in seen if name == "ray_serve_num_ongoing_http_requests"))["actor_id"]

    def grown(name: str, **labels: str) -> float:
        old = sum(n for (known, tags), n in before.items() if known == name and labels.items() <= dict(tags).items())
        return value(seen, name, **labels) - old

    assert grown("ray_serve_deployment_refused_requests_total", **WORKER, actor_id=actor) == 1
    assert grown("ray_serve_num_http_requests_total", status_code="503") == 1
    assert grown("ray_serve_num_http_requests_total", status_code="499") == 1
    assert value(seen, "ray_serve_deployment_error_counter_total", **WORKER, exception_type="CancelledError") == 1


def test_a_replica_that_blocks_its_loop_answers_and_says_so(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(num_replicas=1).bind())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, f"{url}/?block=2", timeout=30)
        until(lambda: value(scrape(url), "ray_serve_event_loop_blocked_seconds", **WORKER) > 0)
        assert value(scrape(url), "ray_serve_num_ongoing_requests", **WORKER) == 1
        answer.result()
    until(lambda: value(scrape(url), "ray_serve_event_loop_blocked_seconds", **WORKER) == 0)


def test_a_dead_replica_leaves_the_scrape_and_its_successor_is_a_new_series(http: httpx.Client, url: str) -> None:
    serve.run(Worker.bind())
    for _ in range(20):
        http.get("/")
    before = scrape(url)
    victim = running("Worker")[0]
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: victim.replica_id not in ids("Worker") and len(ids("Worker")) == 2)
    after = scrape(url)
    never_fell(before, after)
    assert not [labels for _, labels in after if dict(labels).get("replica") == victim.replica_id]
    assert value(after, "ray_serve_deployment_replica_starts_total", **WORKER) == 2
    assert value(after, "ray_serve_deployment_replica_failures_total", **WORKER, cause="crash") >= 1


def test_scrapes_during_crashes_are_always_whole(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(num_replicas=3).bind())
    for _ in range(3):
        victim = running("Worker")[0]
        assert victim.pid
        os.kill(victim.pid, signal.SIGKILL)
        for _ in range(5):
            assert value(scrape(url), "ray_serve_num_router_requests_total", **WORKER) >= 0
        until(lambda gone=victim.replica_id: gone not in ids("Worker") and len(ids("Worker")) == 3)  # type: ignore[misc]


def test_a_scrape_does_not_wait_for_a_stopped_replica(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(health_check_period_s=60).bind())
    first, second = running("Worker")
    assert first.pid
    process = psutil.Process(first.pid)
    process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(4):
            began = time.monotonic()
            seen = scrape(url)
            assert time.monotonic() - began < 1.0 + 1.0  # a second of the machine's being busy
            assert value(seen, "ray_serve_metrics_unanswered") == 1
            assert value(seen, "ray_serve_num_ongoing_requests", **WORKER, replica=second.replica_id) == 0
            answering = {dict(labels).get("replica") for name, labels in seen if "num_ongoing_requests" in name}
            assert first.replica_id not in answering
    finally:
        process.send_signal(signal.SIGCONT)
    until(lambda: value(scrape(url), "ray_serve_metrics_unanswered") == 0)
    assert value(scrape(url), "ray_serve_num_ongoing_requests", replica=first.replica_id) == 0


def test_a_proxy_that_was_started_again_begins_new_series(
    http: httpx.Client, url: str, instance: driver.Client
) -> None:
    serve.run(Worker.bind())
    for _ in range(5):
        http.get("/")
    before = scrape(url)
    [proxy] = instance.status().proxies
    assert proxy.pid
    os.kill(proxy.pid, signal.SIGKILL)

    def started_again() -> bool:
        [now] = instance.status().proxies
        return now.pid is not None and now.pid != proxy.pid

    until(started_again)
    after = scrape(url)
    never_fell(before, after)
    actors = {dict(labels).get("actor_id") for name, labels in after if name == "ray_serve_num_ongoing_http_requests"}
    assert actors == {f"proxy-0-{instance.status().proxies[0].pid}"}
    assert value(after, "ray_serve_deployment_request_counter_total", **WORKER) == 5


def test_metrics_go_on_without_the_controller(http: httpx.Client, url: str, instance: driver.Client) -> None:
    serve.run(Worker.bind())
    for _ in range(5):
        http.get("/")
    before = scrape(url)
    killed = instance.status().controller_pid
    os.kill(killed, signal.SIGKILL)
    without = scrape(url)
    never_fell(before, without)
    assert value(without, "ray_serve_deployment_request_counter_total", **WORKER) == 5
    until(lambda: driver.find().status().controller_pid != killed)
    until(lambda: len(ids("Worker")) == 2)
    after = scrape(url)
    never_fell(before, after)
    assert value(after, "ray_serve_deployment_replica_healthy_total", **WORKER) == 2


def test_concurrent_scrapes_all_get_everything(http: httpx.Client, url: str) -> None:
    serve.run(Worker.bind())
    with ThreadPoolExecutor(16) as pool:
        for seen in pool.map(lambda _: scrape(url), range(48)):
            assert value(seen, "ray_serve_deployment_replica_starts_total", **WORKER) == 2


@serve.deployment
class Batching:
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.05)
    async def double(self, numbers: list[int]) -> list[int]:
        return [2 * number for number in numbers]

    @serve.multiplexed(max_num_models_per_replica=1)
    async def load(self, model_id: str) -> str:
        return model_id

    async def __call__(self, request: Any) -> int:
        await self.load(request.query_params["model"])
        return await self.double(21)  # type: ignore[return-value]


def test_batches_and_models_are_counted(http: httpx.Client, url: str) -> None:
    serve.run(Batching.bind())
    with ThreadPoolExecutor(8) as pool:
        assert {r.text for r in pool.map(lambda _: http.get("/?model=a"), range(8))} == {"42"}
    http.get("/?model=b")
    seen = scrape(url)
    batches = {"application": "default", "deployment": "Batching", "function_name": "double"}
    assert value(seen, "ray_serve_actual_batch_size_sum", **batches) == 9
    assert value(seen, "ray_serve_batch_wait_time_ms_count", **batches) == 9
    count = value(seen, "ray_serve_batches_processed_total", **batches)
    assert 3 <= count <= 9
    assert value(seen, "ray_serve_actual_batch_size_count", **batches) == count
    assert value(seen, "ray_serve_batch_execution_time_ms_count", **batches) == count
    assert value(seen, "ray_serve_batch_utilization_percent_count", **batches) == count
    assert value(seen, "ray_serve_batch_queue_length", **batches) == 0
    assert value(seen, "ray_serve_num_multiplexed_models", deployment="Batching") == 1
    assert value(seen, "ray_serve_registered_multiplexed_model_id", model_id="b") == 1
    assert value(seen, "ray_serve_multiplexed_get_model_requests_counter_total", deployment="Batching") == 9
    assert value(seen, "ray_serve_multiplexed_models_load_counter_total", deployment="Batching") == 2
    assert value(seen, "ray_serve_multiplexed_models_unload_counter_total", deployment="Batching") == 1


@serve.deployment
class Library:
    """Uses a library that counts with prometheus_client, as vLLM does."""

    def __init__(self) -> None:
        self.running = prometheus_client.Gauge("library:running", "In the library.", ["engine"])
        self.running.labels("0").set(3)

    async def __call__(self, request: Any) -> str:
        return "ok"


def test_what_libraries_count_is_exported_by_replica_under_its_own_name(http: httpx.Client, url: str) -> None:
    serve.run(Library.options(num_replicas=2).bind())
    seen = scrape(url)
    for replica_id in ids("Library"):
        assert value(seen, "library:running", deployment="Library", replica=replica_id, engine="0") == 3


@serve.deployment
class Caller:
    def __init__(self, worker: Any) -> None:
        self.worker = worker

    async def __call__(self, request: Any) -> int:
        return await self.worker.answer.remote()  # type: ignore[no-any-return]


@serve.deployment
class Answering:
    async def answer(self) -> int:
        return 42


def test_calls_through_handles_are_counted_with_the_route_that_they_came_by(http: httpx.Client, url: str) -> None:
    serve.run(Caller.bind(Answering.bind()), route_prefix="/ask")
    for _ in range(4):
        assert http.get("/ask").text == "42"
    seen = scrape(url)
    assert value(seen, "ray_serve_deployment_request_counter_total", deployment="Answering", route="/ask") == 4
    [caller] = ids("Caller")
    assert value(seen, "ray_serve_handle_request_counter_total", deployment="Answering", actor_id=caller) == 4


def test_autoscaling_tells_what_it_sees(http: httpx.Client, url: str) -> None:
    scaled = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 4}
    serve.run(Worker.options(num_replicas="auto", autoscaling_config=scaled).bind())
    seen = scrape(url)
    assert value(seen, "ray_serve_autoscaling_target_ongoing_requests", **WORKER) == 4
    assert value(seen, "ray_serve_autoscaling_target_replicas", **WORKER) == 1
    assert value(seen, "ray_serve_autoscaling_total_requests", **WORKER) == 0
    assert value(seen, "ray_serve_autoscaling_desired_replicas", **WORKER) == 0


def test_health_checks_are_timed(http: httpx.Client, url: str) -> None:
    serve.run(Worker.options(health_check_period_s=0.1).bind())
    until(lambda: value(scrape(url), "ray_serve_health_check_latency_ms_count", **WORKER) >= 4)
    assert deployment("Worker").status == "HEALTHY"


@pytest.fixture
def without_prefix(instance: driver.Client) -> Iterator[str]:
    serve.shutdown()
    serve.start(http_options={"port": 0}, rest_options={"port": 0}, metrics_prefix="")
    yield driver.find().http_url or ""
    serve.shutdown()
    serve.start(http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})


def test_the_prefix_can_be_dropped(without_prefix: str) -> None:
    serve.run(Worker.bind())
    httpx.get(without_prefix)
    seen = names(scrape(without_prefix))
    assert {"serve_deployment_request_counter_total", "words_total"} <= seen
    assert not [name for name in seen if name.startswith("ray_")]


@pytest.fixture
def two_proxies(instance: driver.Client) -> Iterator[str]:
    serve.shutdown()
    serve.start(http_options={"port": 0, "num_proxies": 2}, rest_options={"port": 0})
    yield driver.find().http_url or ""
    serve.shutdown()
    serve.start(http_options={"port": 0, "num_proxies": 1}, rest_options={"port": 0})


def test_any_proxy_tells_of_all_proxies(two_proxies: str) -> None:
    serve.run(Worker.bind())
    for _ in range(10):
        httpx.get(two_proxies)
    for _ in range(5):
        seen = scrape(two_proxies)
        assert value(seen, "ray_serve_num_http_requests_total", route="/", status_code="200") == 10
        actors = {dict(labels)["actor_id"] for name, labels in seen if name == "ray_serve_num_ongoing_http_requests"}
        assert {actor.rpartition("-")[0] for actor in actors} == {"proxy-0", "proxy-1"}
