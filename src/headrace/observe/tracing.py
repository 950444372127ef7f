"""Whether this process traces requests: the seam between the request path and OpenTelemetry.

`tracer` is None where there are no traces, and what serves requests does nothing but look at it. OpenTelemetry is
imported where tracing is on, and only there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.observe.span_export import SpanExport
    from headrace.observe.spans import Tracer

logger = logging.getLogger("headrace.tracing")

tracer: Tracer | None = None

_export: SpanExport | None = None


def begin_tracing(config: Mapping[str, Any] | None, instance_id: str, replica_id: str = "") -> None:
    """Trace this process's requests from now on, where the config says so.

    A process that cannot (without OpenTelemetry in an environment of its own, say) tells why, and serves without.

    Args:
        config: a dumped `TracingConfig`; None for no traces.
        instance_id: the traces' `service.instance.id`, which names this process.
        replica_id: of the replica that this is; "" in a proxy.
    """
    global tracer, _export
    if not config or not config.get("enabled"):
        return
    try:
        from headrace.observe.span_export import SpanExport
        from headrace.observe.spans import Tracer

        _export = SpanExport(config, instance_id)
        tracer = Tracer(_export.provider, replica_id)
    except Exception as error:
        logger.error("%s is not traced: %s: %s", instance_id, type(error).__name__, error)


def end_tracing() -> None:
    """Send what has been recorded. Takes no longer than a moment, whether or not anybody takes it."""
    global tracer, _export
    export, _export = _export, None
    tracer = None
    if export is not None:
        export.end()
