"""A collector of OpenTelemetry's: takes spans over OTLP/HTTP as any real one does, and keeps them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from .conditions import until


@dataclass(frozen=True)
class Received:
    """A span. Ids are hexadecimal; `resource` are the attributes of the process that it is of."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[str]
    events: list[dict[str, Any]]
    error: bool
    state: str
    start: int
    end: int


class Receiver:
    """What has been received. `headers`: of the requests that brought it."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []

    def trace(self, trace_id: str, waits: bool = False) -> list[Received]:
        """The spans of a trace so far. Without `waits` not those of waiting for a replica: any request waits until its
        caller is connected."""
        of_trace = [span for span in list(self.spans) if span.trace_id == trace_id]
        return [span for span in of_trace if waits or span.name != "wait for a replica"]

    def whole_trace(self, trace_id: str, count: int, waits: bool = False) -> Tree:
        """A trace, once it has so many spans.

        Raises:
            AssertionError: it has fewer, or more.
        """
        until(lambda: len(self.trace(trace_id, waits)) >= count, 30)
        spans = self.trace(trace_id, waits)
        assert len(spans) == count, [span.name for span in spans]
        return Tree(spans)


class Tree:
    """The spans of a trace, by their places in it."""

    def __init__(self, spans: list[Received]) -> None:
        self.spans = spans

    def below(self, parent_id: str, *names: str) -> Received:
        """The one span that is reached from a span by these names and kinds, as `outline` writes them."""
        found: Received | None = None
        for name in names:
            of_parent = [span for span in self.spans if span.parent_id == parent_id]
            (found,) = (span for span in of_parent if f"{span.name} {span.kind}" == name)
            parent_id = found.span_id
        assert found is not None
        return found

    def outline(self, parent_id: str, depth: int = 0) -> list[str]:
        """The tree as lines, which are indented by depth; what is on one level is sorted by name."""
        lines = []
        for span in sorted((s for s in self.spans if s.parent_id == parent_id), key=lambda s: (s.name, s.start)):
            lines += [f"{'  ' * depth}{span.name} {span.kind}", *self.outline(span.span_id, depth + 1)]
        return lines


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    """A collector on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            received.headers.append({name.lower(): value for name, value in self.headers.items()})
            received.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received = Receiver(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    name=span.name,
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    resource=resource,
                    links=[link.span_id.hex() for link in span.links],
                    events=[{"name": event.name, **_attributes(event.attributes)} for event in span.events],
                    error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    state=span.trace_state,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
