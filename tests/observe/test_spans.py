"""Spans on their way between processes, without an instance."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBasedTraceIdRatio, Sampler

from headrace.observe.spans import Tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def recording(sampler: Sampler | None = None) -> tuple[Tracer, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracer(provider, "replica-1"), exporter


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    known = {"type": "http", "method": "GET", "path": "/a", "scheme": "http", "http_version": "1.1", "client": None}
    return {**known, "headers": list(headers), **more}


def traceparent(flags: str = "01") -> tuple[bytes, bytes]:
    return b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode()


def test_a_context_survives_the_way_to_another_process() -> None:
    tracer, exporter = recording()
    headers = traceparent(), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"), (b"baggage", b"user=ann,team=%C3%A4")
    proxy = tracer.http(scope(*headers), "app", "/")
    other, _ = recording()
    replica = other.replica(proxy.wire(), "app", "D", "__call__", "id")
    token = replica.attach()
    assert baggage.get_all() == {"user": "ann", "team": "ä"}
    of_replica = trace.get_current_span().get_span_context()
    replica.detach(token)
    assert format(of_replica.trace_id, "032x") == TRACE
    assert of_replica.trace_state.to_header() == "a=1,b=2"
    proxy.answered(200)
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None and format(span.parent.span_id, "016x") == PARENT


@pytest.mark.parametrize("wire", [b"", b"x", bytes(24)])
def test_a_caller_that_traces_nothing_has_a_replica_begin_a_trace(wire: bytes) -> None:
    tracer, exporter = recording()
    tracer.replica(wire, "app", "D", "__call__", "id").ended()
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


@pytest.mark.parametrize(
    "header", [b"nonsense", b"00-0-0-01", f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01".encode()]
)
def test_a_header_that_makes_no_sense_is_none(header: bytes) -> None:
    tracer, exporter = recording()
    tracer.http(scope((b"traceparent", header)), "app", "/").answered(200)
    (span,) = exporter.get_finished_spans()
    assert span.parent is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"traceparent", b"tracestate", b"baggage"]),
            st.binary(max_size=60) | st.just(traceparent()[1]),
        ),
        max_size=4,
    )
)
def test_no_header_of_a_client_fails_its_request(headers: list[tuple[bytes, bytes]]) -> None:
    tracer, exporter = recording()
    proxy = tracer.http(scope(*headers), "app", "/")
    tracer.replica(proxy.wire(), "app", "D", "__call__", "id").ended()
    proxy.answered(200)
    assert len({span.context.trace_id for span in exporter.get_finished_spans() if span.context}) <= 1


def test_an_exception_of_any_text_can_be_sent() -> None:
    tracer, exporter = recording()
    span = tracer.replica(b"", "app", "D", "__call__", "id")
    span.ended_with(FileNotFoundError("\udce4.txt"))
    (sent,) = exporter.get_finished_spans()
    assert encode_spans([sent]).SerializeToString()
    assert sent.events[0].attributes is not None and sent.events[0].attributes["exception.message"] == "?.txt"


def test_what_is_not_sampled_stays_so_on_the_whole_way() -> None:
    tracer, exporter = recording(ParentBasedTraceIdRatio(0))
    for headers in ([], [traceparent("00")]):
        proxy = tracer.http(scope(*headers), "app", "/")
        always, also = recording(ParentBasedTraceIdRatio(1))  # another process would record it, were it asked
        replica = always.replica(proxy.wire(), "app", "D", "__call__", "id")
        token = replica.attach()
        call = always.call("app", "E", "__call__", "id")
        assert always.start("mine", None) is None
        assert always.batch("f", 2, [(copy_context(), 0.1)]) is None
        replica.detach(token)
        assert call.wire()[:16] == proxy.wire()[:16] and call.wire()[24] & 1 == 0
        for span in (call, replica):
            span.failed(ValueError("x"))
            span.ended("ValueError")
        proxy.answered(500)
        assert not also.get_finished_spans()
    assert not exporter.get_finished_spans()


def test_a_sampler_that_asks_no_parent_decides_by_itself() -> None:
    tracer, exporter = recording(ALWAYS_ON)
    tracer.http(scope(traceparent("00")), "app", "/").answered(200)
    assert len(exporter.get_finished_spans()) == 1


def test_a_batch_is_below_the_first_request_that_is_sampled() -> None:
    tracer, exporter = recording()
    quiet, first, second = (tracer.http(scope(traceparent(flags)), "app", "/") for flags in ("00", "01", "01"))
    contexts = []
    for request in (quiet, first, second):
        token = request.attach()
        contexts.append(copy_context())
        request.detach(token)
    batch = tracer.batch("f", 8, [(context, 0.5) for context in contexts])
    assert batch is not None
    batch.ended()
    first.answered(200)
    second.answered(200)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    of_requests = [span for span in exporter.get_finished_spans() if span.name == "GET /"]
    assert spans["batch f"].parent == of_requests[0].context
    assert [link.context for link in spans["batch f"].links] == [span.context for span in of_requests]
    waits = [span for span in exporter.get_finished_spans() if span.name == "wait for batch f"]
    assert [wait.parent for wait in waits] == [span.context for span in of_requests]
    assert all(wait.end_time - wait.start_time == 500_000_000 for wait in waits)  # type: ignore[operator]
    assert spans["batch f"].attributes == {"headrace.batch.size": 3, "headrace.batch.max_size": 8}


def test_a_request_that_ends_while_it_waits_has_waited_until_then() -> None:
    tracer, exporter = recording()
    proxy = tracer.http(scope(), "app", "/")
    proxy.queued()
    proxy.queued()  # a replica has rejected it
    proxy.answered(499)
    proxy.answered(200)  # only the first counts
    wait, request = exporter.get_finished_spans()
    assert wait.name == "wait for a replica" and wait.parent == request.context
    assert request.attributes is not None and request.attributes["headrace.cancelled"] is True
    assert "http.response.status_code" not in request.attributes


def test_an_unusual_method_is_no_span_name_of_its_own() -> None:
    tracer, exporter = recording()
    tracer.http(scope(method="BREW"), "app", "/pot").answered(404)
    (span,) = exporter.get_finished_spans()
    assert span.name == "HTTP /pot" and not span.status.description and span.status.is_unset
    assert span.attributes is not None
    assert (span.attributes["http.request.method"], span.attributes["http.request.method_original"]) == (
        "_OTHER",
        "BREW",
    )
