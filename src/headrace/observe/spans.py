"""The spans of a request: in the proxy, in its router's queue, in a replica, of a call, of a batch.

Names and attributes follow OpenTelemetry's semantic conventions where these have them; the others begin with
`headrace.`.

Between processes of an instance a span's context travels as bytes (`Span.wire`), since it does so for every call; from
clients it comes as the propagators say that `OTEL_PROPAGATORS` names (W3C's by default).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import Context as Variables
from contextvars import Token
from typing import Any

import msgspec
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import AttributeValue

logger = logging.getLogger("headrace.tracing")

Attributes = Mapping[str, AttributeValue]

_IDS_BYTES = 25
_CANCELLED = ("CancelledError", "RequestCancelledError")
_CLIENT_LEFT = 499
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
_MAX_MESSAGE = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, dict[str, str]]).decode


class Span:
    """One step of a request, under way. Of a request that is not sampled, it only passes on that it is not.

    Args:
        tracer: makes the spans below it.
        span: OpenTelemetry's.
        around: the context that it begins in, whose baggage goes on with it; None for an empty one.
    """

    __slots__ = ("_around", "_span", "_tracer", "_waiting")

    def __init__(self, tracer: Tracer, span: OtelSpan, around: Context | None) -> None:
        self._tracer = tracer
        self._span = span
        self._around = around
        self._waiting: OtelSpan | None = None

    @property
    def recording(self) -> bool:
        """Whether it is sampled, and has not ended."""
        return self._span.is_recording()

    def attach(self) -> Token[Context]:
        """Make it the current one, which user code's spans and calls are below of. Undone by `detach`."""
        return attach(trace.set_span_in_context(self._span, self._around or _EMPTY))

    def detach(self, token: Token[Context]) -> None:
        detach(token)

    def wire(self) -> bytes:
        """What the process that goes on with the request gets: trace id, span id, flags, and what else goes with it."""
        context = self._span.get_span_context()
        ids = b"%b%b%c" % (
            context.trace_id.to_bytes(16, "big"),
            context.span_id.to_bytes(8, "big"),
            context.trace_flags & 0xFF,
        )
        carried = baggage.get_all(self._around) if self._around else None
        if not carried and not context.trace_state:
            return ids
        state = context.trace_state.to_header() if context.trace_state else ""
        return ids + _encode((state, {name: str(value) for name, value in (carried or {}).items()}))

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    # In the router's queue.

    def queued(self) -> None:
        """There is no replica with room."""
        if self._waiting is None and self._span.is_recording():
            self._waiting = self._tracer.below("wait for a replica", self._span)

    def sent(self) -> None:
        """It goes to a replica."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end()

    # Its end.

    def failed(self, error: BaseException, traceback: str = "") -> None:
        """Note an exception; `ended` is still to come."""
        span = self._span
        if not span.is_recording():
            return
        name = type(error).__name__
        if name in _CANCELLED:
            return
        try:
            text = str(error)[:_MAX_MESSAGE]
        except Exception:  # of the user's `__str__`
            text = ""
        event = {"exception.type": name, "exception.message": _sendable(text)}
        if traceback:
            event["exception.stacktrace"] = _sendable(traceback)
        span.add_event("exception", event)

    def ended(self, failure: str | None = None) -> None:
        """It is over. Only the first call counts.

        Args:
            failure: name of the exception that it ended with; None for none.
        """
        self.sent()
        span = self._span
        if not span.is_recording():
            return
        if failure is not None:
            if failure in _CANCELLED:
                span.set_attribute("headrace.cancelled", True)
            else:
                span.set_attribute("error.type", failure)
                span.set_status(Status(StatusCode.ERROR, failure))
        span.end()

    def ended_with(self, error: Exception) -> None:
        """It is over, with an exception."""
        self.failed(error)
        self.ended(type(error).__name__)

    def answered(self, status: int) -> None:
        """The HTTP request that it is of was answered."""
        self.sent()
        span = self._span
        if not span.is_recording():
            return
        if status == _CLIENT_LEFT:
            span.set_attribute("headrace.cancelled", True)
        else:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()


class Tracer:
    """Begins spans.

    Args:
        provider: OpenTelemetry's.
        replica_id: of the replica that this process is; "" in a proxy.
    """

    def __init__(self, provider: TracerProvider, replica_id: str = "") -> None:
        self._otel = provider.get_tracer("headrace")
        self._replica_id = replica_id
        # Then what is not sampled is known to stay so, and OpenTelemetry need not be asked.
        self._parent_decides = isinstance(provider.sampler, ParentBased)
        self._fields = frozenset(field.encode() for field in propagate.get_global_textmap().fields)

    def http(self, scope: MutableMapping[str, Any], app: str, route: str) -> Span:
        """A request of a client, or a WebSocket, that the proxy has a route for."""
        carrier: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name in self._fields:
                field, text = name.decode("latin-1"), value.decode("latin-1")
                carrier[field] = f"{carrier[field]},{text}" if field in carrier else text
        around = _EMPTY
        if carrier:
            try:
                around = propagate.extract(carrier, _EMPTY)
            except Exception:  # what a client sends must not fail its request
                logger.debug("the context of a request cannot be read", exc_info=True)
            known = self._not_sampled(around)
            if known is not None:
                return known
        method = scope.get("method", "GET")
        known_method = method if method in _METHODS else "_OTHER"
        attributes = {
            "http.request.method": known_method,
            "http.route": route,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "headrace.application": app,
        }
        if known_method == "_OTHER":
            attributes["http.request.method_original"] = method
        client = scope.get("client")
        if client:
            attributes["client.address"] = client[0]
        kind = "WebSocket" if scope["type"] == "websocket" else known_method if known_method != "_OTHER" else "HTTP"
        span = self._otel.start_span(f"{kind} {route}", around, SpanKind.SERVER, attributes)
        return Span(self, span, around or None)

    def replica(self, wire: bytes, app: str, deployment: str, method: str, request_id: str) -> Span:
        """A request that this replica has admitted. `wire`: of its caller's span, b"" where that traces nothing."""
        around = _around(wire)
        known = self._not_sampled(around)
        if known is not None:
            return known
        attributes = _of_call(app, deployment, request_id)
        attributes["headrace.replica"] = self._replica_id
        span = self._otel.start_span(f"{deployment}.{method}", around, SpanKind.SERVER, attributes)
        return Span(self, span, around)

    def call(self, app: str, deployment: str, method: str, request_id: str) -> Span:
        """A call through a handle, below whatever the caller does now."""
        around = get_current()
        known = self._not_sampled(around)
        if known is not None:
            return known
        attributes = _of_call(app, deployment, request_id)
        span = self._otel.start_span(f"{deployment}.{method}", around, SpanKind.CLIENT, attributes)
        return Span(self, span, around)

    def batch(self, name: str, largest: int, waits: Sequence[tuple[Variables, float]]) -> Span | None:
        """A batch that begins now, below the first of its requests that is sampled. It links to all of these, and each
        gets a span of its wait that links to it.

        Args:
            name: of the batched function.
            largest: how many requests a batch has at most.
            waits: of each request its context variables, and the seconds that it has waited.
        """
        sampled = []
        for variables, waited_s in waits:
            around = variables.run(get_current)
            span = trace.get_current_span(around)
            if span.is_recording():
                sampled.append((around, span, waited_s))
        if not sampled:
            return None
        now = time.time_ns()
        around = sampled[0][0]
        batch = self._otel.start_span(
            f"batch {name}",
            around,
            SpanKind.INTERNAL,
            {"headrace.batch.size": len(waits), "headrace.batch.max_size": largest},
            links=[Link(span.get_span_context()) for _, span, _ in sampled],
            start_time=now,
        )
        to_batch = [Link(batch.get_span_context())]
        for _, span, waited_s in sampled:
            self.below(f"wait for batch {name}", span, now - int(waited_s * 1e9), to_batch).end(now)
        return Span(self, batch, around)

    def start(self, name: str, attributes: Attributes | None) -> Span | None:
        """A span below the current one; None where that is none, or is not sampled."""
        around = get_current()
        if not trace.get_current_span(around).is_recording():
            return None
        return Span(self, self._otel.start_span(name, around, SpanKind.INTERNAL, attributes), around)

    def set_on_current(self, attributes: Attributes) -> None:
        trace.get_current_span().set_attributes(attributes)

    def below(
        self, name: str, parent: OtelSpan, start_ns: int | None = None, links: Sequence[Link] | None = None
    ) -> OtelSpan:
        """A span of our own below another."""
        around = trace.set_span_in_context(parent, _EMPTY)
        return self._otel.start_span(name, around, SpanKind.INTERNAL, links=links, start_time=start_ns)

    def _not_sampled(self, around: Context) -> Span | None:
        """Stands in for a span where it is known already that there is to be none."""
        if not self._parent_decides:
            return None
        parent = trace.get_current_span(around)
        context = parent.get_span_context()
        if not context.is_valid or context.trace_flags & TraceFlags.SAMPLED:
            return None
        return Span(self, parent, around)


_EMPTY = Context()


def _sendable(text: str) -> str:
    """One span with half a character in it would have its whole batch refused."""
    return text.encode("utf-8", "replace").decode()


def _of_call(app: str, deployment: str, request_id: str) -> dict[str, str]:
    """What both ends of a call say of it."""
    return {
        "headrace.application": app,
        "headrace.deployment": deployment,
        "headrace.request_id": request_id,
    }


def _around(wire: bytes) -> Context:
    """The context that a caller's `Span.wire` stands for."""
    if len(wire) < _IDS_BYTES:
        return _EMPTY
    state, carried = _decode(wire[_IDS_BYTES:]) if len(wire) > _IDS_BYTES else ("", {})
    context = SpanContext(
        int.from_bytes(wire[:16], "big"),
        int.from_bytes(wire[16:24], "big"),
        is_remote=True,
        trace_flags=TraceFlags(wire[24]),
        trace_state=TraceState.from_header([state]) if state else None,
    )
    around = trace.set_span_in_context(NonRecordingSpan(context), _EMPTY)
    for name, value in carried.items():
        around = baggage.set_baggage(name, value, around)
    return around
