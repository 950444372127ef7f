"""What a dashboard is told of a running instance: series, who calls whom, requests, and all that as it happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver

from .conditions import ids, running, until

WITHIN_S = 2.5
"""The bound of `/api/headrace/requests`, and what a busy machine adds."""


@serve.deployment(num_replicas=2, max_ongoing_requests=2, health_check_period_s=60)
class Model:
    async def __call__(self, seconds: float) -> int:
        if seconds < 0:
            raise KeyError("no such word")
        await asyncio.sleep(seconds)
        return os.getpid()


@serve.deployment(max_ongoing_requests=100)
class Front:
    def __init__(self, model: Any) -> None:
        self.model = model

    async def __call__(self, request: Any) -> int:
        answer: int = await self.model.remote(float(request.query_params.get("seconds", "0")))
        return answer


@pytest.fixture
def rest(instance: driver.Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{instance.rest_url}/api/headrace", timeout=30) as client:
        yield client


@pytest.fixture
def load(http: httpx.Client) -> Iterator[None]:
    """A chain of two deployments, and requests to it all the time."""
    serve.run(Front.bind(Model.bind()), route_prefix="/work")
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            http.get("/work", params={"seconds": "0.01"})

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        yield
        done.set()
        for each in asking:
            each.result()


def series(rest: httpx.Client, deployment: str, **parameters: int) -> dict[str, list[float | None]]:
    answer = rest.get("/series", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, list[float | None]] = answer.json()["deployments"].get(f"default/{deployment}", {})
    return found


def known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def requests(rest: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    answer = rest.get("/requests", params=parameters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


def test_series_tell_how_much_each_deployment_does(rest: httpx.Client, load: None) -> None:
    until(lambda: max(known(series(rest, "Model").get("requests_per_s", [])), default=0) > 1)
    answer = rest.get("/series").json()
    assert answer["interval_s"] == 2.0
    assert abs(answer["until"] - time.time()) < 30
    for name in ("Front", "Model"):
        of_one = answer["deployments"][f"default/{name}"]
        assert {len(values) for values in of_one.values()} == {450}
        assert of_one["requests_per_s"][0] is None  # there was nothing fifteen minutes ago
    # A call takes ten milliseconds or a little more at the model, and no less at what calls it.
    model, front = (answer["deployments"][f"default/{name}"] for name in ("Model", "Front"))
    assert known(model["latency_p50_ms"])[-1] >= 10
    assert known(front["latency_p99_ms"])[-1] >= known(front["latency_p50_ms"])[-1]
    assert known(model["replicas"])[-1] == known(model["target_replicas"])[-1] == 2
    assert set(known(model["errors_per_s"])) == {0}
    assert len(series(rest, "Model", minutes=1)["ongoing"]) == 30


def test_longer_series_have_a_point_every_half_a_minute(rest: httpx.Client) -> None:
    answer = rest.get("/series?minutes=60").json()
    assert answer["interval_s"] == 30.0
    assert all(len(values) == 120 for of_one in answer["deployments"].values() for values in of_one.values())


def test_a_replica_that_is_killed_and_replaced_makes_no_rate_negative_or_too_high(
    rest: httpx.Client, load: None
) -> None:
    until(lambda: len(known(series(rest, "Model").get("requests_per_s", []))) >= 2)
    before = ids("Model")
    victim = running("Model")[0].pid
    assert victim
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(ids("Model")) == 2 and ids("Model") != before)
    seen = len(known(series(rest, "Model")["replicas"]))
    until(lambda: len(known(series(rest, "Model")["replicas"])) >= seen + 2)
    rates = known(series(rest, "Model")["requests_per_s"])
    # Two clients, each of whose requests takes ten milliseconds.
    assert min(rates) >= 0
    assert max(rates) <= 200 * 1.1
    assert rates[-1] > 0


@pytest.mark.local_engine("kills a process by its pid")
def test_a_controller_that_begins_again_knows_nothing_of_the_time_before_and_makes_up_nothing(
    rest: httpx.Client, instance: driver.Client, load: None
) -> None:
    until(lambda: max(known(series(rest, "Model").get("requests_per_s", [])), default=0) > 1)
    os.kill(instance.status().controller_pid, signal.SIGKILL)

    def told_again() -> bool:
        try:
            return bool(known(series(rest, "Model").get("requests_per_s", [])))
        except httpx.TransportError:
            return False  # it was on its way to the old one

    until(told_again)
    rates = series(rest, "Model")["requests_per_s"]
    assert rates[:400] == [None] * 400
    assert all(0 <= rate <= 200 * 1.1 for rate in known(rates))


def test_edges_are_known_before_any_request_and_counted_after(rest: httpx.Client, http: httpx.Client) -> None:
    serve.run(Front.bind(Model.bind()), name="other", route_prefix="/other")

    def edges() -> dict[tuple[str, str], float | None]:
        return {(e["from"], e["to"]): e["requests_per_s"] for e in rest.get("/calls").json()["edges"]}

    wanted = {("proxy", "other/Front"), ("other/Front", "other/Model")}
    until(lambda: wanted <= edges().keys())
    assert all(not per_s for edge, per_s in edges().items() if edge in wanted)

    def called() -> bool:
        for _ in range(5):
            http.get("/other")
        return all(edges()[edge] for edge in wanted)

    until(called)


def test_a_failed_request_is_told_with_its_way(rest: httpx.Client, http: httpx.Client) -> None:
    serve.run(Front.bind(Model.bind()), route_prefix="/work")
    for number in range(5):
        assert http.get("/work", headers={"x-request-id": f"good-{number}"}).status_code == 200
    assert http.get("/work?seconds=-1", headers={"x-request-id": "bad"}).status_code == 500
    (failed,) = (request for request in requests(rest, kind="failed") if request["request_id"] == "bad")
    assert (failed["app"], failed["route"], failed["status"], failed["failure"]) == (
        "default",
        "/work",
        500,
        "KeyError",
    )
    front, model = failed["spans"]
    assert (front["deployment"], model["deployment"]) == ("Front", "Model")
    assert (front["caller"], model["caller"]) == ("proxy", "default/Front")
    assert model["failure"] == "KeyError"
    assert failed["began"] <= front["began"] <= model["began"]
    assert failed["duration_ms"] >= front["duration_ms"] >= model["duration_ms"]
    assert "good-1" not in {request["request_id"] for request in requests(rest, kind="failed")}
    assert {f"good-{number}" for number in range(5)} <= {request["request_id"] for request in requests(rest)}


def test_the_slowest_come_first_and_tell_how_long_they_have_waited(
    rest: httpx.Client, http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Front.bind(Model.options(num_replicas=1, max_ongoing_requests=1).bind()), route_prefix="/slow")
    assert http.get("/slow").status_code == 200  # the way is open from now on: nothing waits for a connection

    def ask(name: str) -> None:
        assert http.get("/slow?seconds=0.4", headers={"x-request-id": name}).status_code == 200

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(ask, ["one", "another"]))
    for _ in range(10):
        http.get("/slow")
    slowest, next_slowest = requests(rest, kind="slow", app="default", limit=2)
    assert {slowest["request_id"], next_slowest["request_id"]} == {"one", "another"}
    assert slowest["duration_ms"] > 800 > next_slowest["duration_ms"] > 400
    (waited,) = (span for span in slowest["spans"] if span["deployment"] == "Model")
    (at_once,) = (span for span in next_slowest["spans"] if span["deployment"] == "Model")
    assert waited["queued_ms"] > 200
    assert at_once["queued_ms"] is None


def test_a_call_of_a_driver_is_a_request_too(rest: httpx.Client, http: httpx.Client) -> None:
    handle = serve.run(Model.bind(), route_prefix=None)
    with pytest.raises(KeyError):
        handle.remote(-2).result()
    failed = requests(rest, kind="failed")[0]
    assert (failed["status"], failed["failure"], len(failed["spans"])) == (None, "KeyError", 1)
    assert failed["spans"][0]["caller"] is None


@pytest.mark.local_engine("stops a process by its pid")
def test_a_stopped_replica_holds_nobody_up(rest: httpx.Client, http: httpx.Client) -> None:
    serve.run(Front.bind(Model.bind()), route_prefix="/work")
    assert http.get("/work", headers={"x-request-id": "before"}).status_code == 200
    stopped = running("Model")[0].pid
    assert stopped
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = rest.get("/requests").json()
        assert time.monotonic() - began < WITHIN_S
        assert answer["unanswered"] == 1
        assert "before" in {request["request_id"] for request in answer["requests"]}
        # One replica of two goes on telling.
        seen = rest.get("/series").json()["until"] or 0
        until(lambda: (rest.get("/series").json()["until"] or 0) >= seen + 4)
        assert series(rest, "Model")["requests_per_s"][-1] == 0
    finally:
        os.kill(stopped, signal.SIGCONT)


def events(rest: httpx.Client, wanted: Any, seconds: float = 60.0) -> dict[str, Any]:
    """Listen until an event comes that is wanted; returns its data."""
    deadline = time.monotonic() + seconds
    with rest.stream("GET", "/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            assert time.monotonic() < deadline, f"not within {seconds:g} s"
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and wanted(name, data := json.loads(value)):
                found: dict[str, Any] = data
                return found
    raise AssertionError("the stream ended")


def test_a_deploy_shows_in_the_live_stream(rest: httpx.Client, http: httpx.Client) -> None:
    with ThreadPoolExecutor(3) as threads:

        def deployed(name: str, data: dict[str, Any]) -> bool:
            return name == "status" and [a["status"] for a in data["applications"]] == ["RUNNING"]

        listening = [threads.submit(events, rest, deployed) for _ in range(2)]
        counting = threads.submit(
            events, rest, lambda name, data: name == "point" and "default/Model" in data["deployments"]
        )
        serve.run(Model.bind(), route_prefix="/live")
        assert all(each.result()["applications"][0]["name"] == "default" for each in listening)
        point = counting.result()
    assert point["interval_s"] == 2.0
    assert set(point["deployments"]["default/Model"]) >= {"requests_per_s", "latency_p99_ms", "queued", "replicas"}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/series?minutes=0", "minutes"),
        ("/series?minutes=1441", "minutes"),
        ("/series?minutes=an+hour", "minutes"),
        ("/series?minute=5", "minute"),
        ("/requests?kind=slowest", "kind"),
        ("/requests?limit=-1", "limit"),
        ("/requests?app=nowhere", "app"),
        ("/calls?app=default", "app"),
        ("/live?since=1", "since"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(rest: httpx.Client, path: str, field: str) -> None:
    answer = rest.get(path)
    assert answer.status_code == 400
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]
