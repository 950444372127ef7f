"""What a policy learns from a Prometheus server, which here is a small HTTP server of the test."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from headrace.autoscaling_policy import PrometheusQueryMixin, PrometheusSample, PrometheusScalar, PrometheusVector
from headrace.prometheus_query import ask


class Prometheus:
    """Answers by query; counts what it is asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                (query,) = parse_qs(address.query)["query"]
                outer.asked.append((query, self.headers.get("authorization")))
                body = json.dumps(outer.answers[query]).encode()
                self.send_response(200 if address.path == "/api/v1/query" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, query: str, kind: str, result: Any) -> None:
        self.answers[query] = {"status": "success", "data": {"resultType": kind, "result": result}}


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    made = Prometheus()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Policy(PrometheusQueryMixin):
    pass


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (value := condition()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    return value


def test_scalars_and_vectors_come_as_what_they_are(prometheus: Prometheus) -> None:
    prometheus.says("scalar(a)", "scalar", [1.5, "3"])
    prometheus.says("a", "vector", [{"metric": {"zone": "b"}, "value": [1.5, "4"]}])
    prometheus.says("none", "vector", [])
    policy = Policy(prometheus_address=prometheus.address, prometheus_queries=["scalar(a)", "a", "none"])
    assert until(lambda: policy.prometheus_results) == {
        "scalar(a)": PrometheusScalar(3.0, 1.5),
        "a": PrometheusVector((PrometheusSample({"zone": "b"}, 4.0, 1.5),)),
        "none": PrometheusVector(()),
    }
    assert policy.prometheus_metrics == {"scalar(a)": 3.0, "a": 4.0}


def test_what_is_no_number_is_left_out(prometheus: Prometheus) -> None:
    prometheus.says("q", "vector", [{"metric": {}, "value": [1, "NaN"]}, {"metric": {}, "value": [1, "2"]}])
    prometheus.says("s", "scalar", [1, "+Inf"])
    assert ask(prometheus.address, "q") == PrometheusVector((PrometheusSample({}, 2.0, 1.0),))
    assert ask(f"http://{prometheus.address}/api/v1/query", "s") is None


def test_a_query_that_fails_leaves_the_others(prometheus: Prometheus) -> None:
    prometheus.says("good", "scalar", [1, "1"])
    prometheus.answers["bad"] = {"status": "error", "error": "parse error"}
    prometheus.says("odd", "matrix", [])
    policy = Policy(prometheus_address=prometheus.address, prometheus_queries=["bad", "odd", "good"])
    assert until(lambda: policy.prometheus_metrics) == {"good": 1.0}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": "error", "error": "parse error"}, "parse error"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "not a matrix"),
        ({"status": "success", "data": {"resultType": "vector", "result": [{"histogram": []}]}}, "histograms"),
        ({"status": "success", "data": {"resultType": "scalar", "result": ["1"]}}, "no pair"),
        ([], "failed"),
    ],
)
def test_an_answer_that_is_none_is_said_to_be(prometheus: Prometheus, answer: Any, said: str) -> None:
    prometheus.answers["q"] = answer
    with pytest.raises(ValueError, match=said):
        ask(prometheus.address, "q")


def test_old_answers_are_none(prometheus: Prometheus) -> None:
    prometheus.says("q", "scalar", [1, "1"])
    policy = Policy(
        prometheus_address=prometheus.address, prometheus_queries=["q"], fetch_interval_s=600, cache_ttl_s=0.5
    )
    until(lambda: policy.prometheus_metrics)
    until(lambda: policy.prometheus_metrics is None)


def test_address_and_headers_come_from_the_environment(prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_PROMETHEUS_HOST", f"http://{prometheus.address}/")
    monkeypatch.setenv("RAY_PROMETHEUS_HEADERS", '[["Authorization", "Bearer x"]]')
    prometheus.says("q", "scalar", [1, "1"])
    policy = Policy(prometheus_queries=["q"])
    assert until(lambda: policy.prometheus_metrics) == {"q": 1.0}
    assert prometheus.asked[0] == ("q", "Bearer x")
    monkeypatch.setenv("RAY_PROMETHEUS_HEADERS", '{"a": 1}')
    with pytest.raises(ValueError, match="RAY_PROMETHEUS_HEADERS must be a JSON object of strings"):
        Policy()


def test_without_an_address_there_are_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_PROMETHEUS_HOST", raising=False)
    assert Policy(prometheus_queries=["q"]).prometheus_results is None


def test_a_policy_that_is_let_go_of_asks_no_more(prometheus: Prometheus) -> None:
    prometheus.says("q", "scalar", [1, "1"])
    policies = [Policy(prometheus_address=prometheus.address, prometheus_queries=["q"], fetch_interval_s=0.01)]
    until(lambda: policies[0].prometheus_metrics)
    policies.clear()
    gc.collect()
    until(lambda: not any(thread.name == "prometheus" for thread in threading.enumerate()))
