"""How what proxies and replicas tell of a request becomes its way through the application."""

from __future__ import annotations

from headrace.config.observed import EndedRequest, Wait
from headrace.controller.observed.requests import Span, by_request, first_ids, waterfall
from headrace.controller.observed.sampler import PROXY, Process

PROXY_0 = Process("proxy-0-1", PROXY, "")
EDGES = {(PROXY, "app/Front"), ("app/Front", "app/Model"), ("app/Other", "app/Model")}


def http(began: float, took_s: float, status: int = 200, failure: str | None = None, id: str = "r") -> Span:
    return Span(PROXY_0, EndedRequest(id, began + took_s, took_s, failure, "GET", "/", "app", status))


def call(
    deployment: str, began: float, took_s: float, failure: str | None = None, replica: str = "1", id: str = "r"
) -> Span:
    process = Process(f"app#{deployment}#{replica}", f"app/{deployment}", "")
    return Span(process, EndedRequest(id, began + took_s, took_s, failure, "__call__", "/"))


def test_a_call_sent_again_is_two_spans_of_one_caller() -> None:
    spans = [http(0, 5), call("Model", 3, 1, replica="2"), call("Front", 0.5, 4), call("Model", 1, 1, "OSError")]
    told = waterfall(spans, [], EDGES)
    assert told is not None
    assert [(s["deployment"], s["began"], s["caller"], s["failure"]) for s in told["spans"]] == [
        ("Front", 0.5, "proxy", None),
        ("Model", 1.0, "app/Front", "OSError"),
        ("Model", 3.0, "app/Front", None),
    ]
    assert (told["failure"], told["status"], told["duration_ms"]) == (None, 200, 5000.0)


def test_who_called_is_not_guessed_where_two_may_have() -> None:
    told = waterfall([http(0, 5), call("Front", 0, 5), call("Other", 0, 5), call("Model", 1, 1)], [], EDGES)
    assert told is not None
    assert told["spans"][-1]["caller"] is None


def test_each_wait_is_that_of_the_call_that_came_after_it() -> None:
    waits = [Wait("r", "app", "Model", 1.0, 0.25), Wait("r", "app", "Model", 3.0, 0.5), Wait("x", "app", "Model", 3, 9)]
    spans = [http(0, 5), call("Front", 0.5, 4), call("Model", 1.001, 1), call("Model", 3.001, 1)]
    told = waterfall(spans, waits, EDGES)
    assert told is not None
    assert [span["queued_ms"] for span in told["spans"]] == [None, 250.0, 500.0]


def test_the_failure_is_what_was_raised_rather_than_how_it_was_answered() -> None:
    front, model = call("Front", 0, 1, "RuntimeError"), call("Model", 0.1, 0.5, "KeyError")
    told = waterfall([http(0, 1, 500, "HTTP 500"), front, model], [], EDGES)
    assert told is not None and told["failure"] == "KeyError"
    unanswered = waterfall([http(0, 1, 503, "ReplicaUnavailableError"), front], [], EDGES)
    assert unanswered is not None and unanswered["failure"] == "ReplicaUnavailableError"


def test_of_an_id_that_a_client_uses_again_the_last_request_is_told() -> None:
    told = waterfall([http(0, 1), call("Front", 0, 1), http(10, 2), call("Front", 10, 2)], [], EDGES)
    assert told is not None
    assert (told["began"], told["duration_ms"], len(told["spans"])) == (10.0, 2000.0, 1)


def test_a_request_of_which_nobody_knows_any_more_is_left_out() -> None:
    assert [waterfall(spans, [], EDGES) for spans in by_request([], ["gone"])] == [None]


def test_a_request_took_as_long_as_it_took_over_http() -> None:
    found = [
        http(0, 1, id="fast").request,
        call("Model", 0, 50, id="fast").request,  # it went on after its client had left
        http(0, 10, id="slow").request,
        call("Model", 0, 20, id="of a driver").request,
    ]
    assert first_ids("slow", found, 3) == ["of a driver", "slow", "fast"]
    assert first_ids("slow", found, 1) == ["of a driver"]
