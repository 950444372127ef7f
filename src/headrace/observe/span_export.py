"""Sends this process's spans to where they are wanted, in the background: no request and no end waits long for it."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

logger = logging.getLogger("headrace.tracing")

_END_S = 2.0
"""So long the end of a process waits for its last spans to be taken."""

_TURN_S = 0.02

_EXPORTERS_LOGGER = "opentelemetry.exporter.otlp"
_QUEUES_LOGGERS = ("opentelemetry.sdk._shared_internal", "opentelemetry.sdk.trace.export")

_MAX_REASON = 300


class SpanExport:
    """
    Args:
        config: a dumped `TracingConfig`.
        instance_id: names this process.

    Attributes:
        provider: makes tracers; OpenTelemetry's own for this whole process, so that user code's spans go the same way.

    Raises:
        ImportError: something of OpenTelemetry, or the user's exporter, cannot be imported.
    """

    def __init__(self, config: Mapping[str, Any], instance_id: str) -> None:
        self._outage = _Outage()
        ratio = config.get("sampling_ratio")
        self.provider = TracerProvider(
            # None is what OTEL_TRACES_SAMPLER says.
            sampler=None if ratio is None else ParentBasedTraceIdRatio(ratio),
            resource=_resource(config.get("service_name"), instance_id),
            shutdown_on_exit=False,
        )
        for processor in self._processors(config):
            self.provider.add_span_processor(processor)
        trace.set_tracer_provider(self.provider)
        # It would repeat what clients send.
        logging.getLogger("opentelemetry.baggage").setLevel(logging.ERROR)

    def _processors(self, config: Mapping[str, Any]) -> list[SpanProcessor]:
        if config.get("exporter_import_path"):
            return _processors_of_user(config["exporter_import_path"])
        exporter: SpanExporter
        if config.get("exporter") == "console":
            exporter = ConsoleSpanExporter(out=sys.__stdout__ or sys.stdout, formatter=_line)
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter(endpoint=_traces_url(config.get("endpoint")))
            self._outage.watch()
            exporter = _Watched(exporter, self._outage)
        return [BatchSpanProcessor(exporter)]

    def end(self) -> None:
        """Have the last spans sent. Gives up after 2 seconds, and at once where nobody takes them."""
        if self._outage.lasts:
            return
        sending = threading.Thread(target=self.provider.shutdown, name="headrace-last-spans", daemon=True)
        sending.start()
        deadline = time.monotonic() + _END_S
        while sending.is_alive() and time.monotonic() < deadline and not self._outage.lasts:
            sending.join(_TURN_S)


class _Outage(logging.Handler):
    """Tells once that spans cannot be delivered, where the exporter would tell for every batch.

    Attributes:
        lasts: whether the last attempt failed.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lasts = False
        self._told_at = -_TELL_AGAIN_S

    def watch(self) -> None:
        for name in (_EXPORTERS_LOGGER, *_QUEUES_LOGGERS):
            of_exporter = logging.getLogger(name)
            of_exporter.addHandler(self)
            of_exporter.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_EXPORTERS_LOGGER):
            self.lasts = True
        if time.monotonic() - self._told_at < _TELL_AGAIN_S:
            return
        self._told_at = time.monotonic()
        reason = record.getMessage()[:_MAX_REASON]
        hint = " (gRPC's port is 4317; spans go over HTTP, whose port is 4318)" if "4317" in reason else ""
        logger.warning("not all spans can be delivered; requests go on without: %s%s", reason, hint)


_TELL_AGAIN_S = 600.0


class _Watched(SpanExporter):
    """An exporter whose successes end an outage."""

    def __init__(self, exporter: SpanExporter, outage: _Outage) -> None:
        self._exporter = exporter
        self._outage = outage

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS and self._outage.lasts:
            self._outage.lasts = False
            logger.info("spans are delivered again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _resource(service_name: str | None, instance_id: str) -> Resource:
    attributes: dict[str, str | int] = {
        "service.instance.id": instance_id,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    if service_name:
        attributes["service.name"] = service_name
    elif "OTEL_SERVICE_NAME" not in os.environ and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = "headrace"
    return Resource.create({**attributes})


def _traces_url(endpoint: str | None) -> str | None:
    """Where spans are posted to; None for what the environment says."""
    if endpoint is None:
        return None
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _processors_of_user(path: str) -> list[SpanProcessor]:
    module, _, name = path.replace(":", ".").rpartition(".")
    made = getattr(importlib.import_module(module), name)()
    if not isinstance(made, list) or not all(isinstance(each, SpanProcessor) for each in made):
        raise TypeError(f"exporter_import_path: {path!r} must return a list of SpanProcessors, not {made!r}")
    return made
