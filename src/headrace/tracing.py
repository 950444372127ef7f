"""What user code adds to the traces of its requests, where OpenTelemetry's own API is more than it needs.

    from headrace import tracing

    @serve.deployment
    class Search:
        async def __call__(self, request):
            hits = await self.index.find(request.query)
            tracing.set_attributes({"search.hits": len(hits)})
            return hits

Where nothing is traced, and for requests that are not sampled, these do nothing. OpenTelemetry need not be installed
then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.observe import tracing as process

if TYPE_CHECKING:
    from headrace.observe.spans import Span

__all__ = ["Attributes", "set_attributes", "start_span"]

Attributes = Mapping[str, str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]]


def set_attributes(attributes: Attributes) -> None:
    """Say something of the step of the request that this code is in: the current span gets these attributes."""
    if process.tracer is not None:
        process.tracer.set_on_current(attributes)


def start_span(name: str, attributes: Attributes | None = None) -> Span | None:
    """Begin a step below the current one. It does not become the current one; for that there is OpenTelemetry's
    `trace.get_tracer(...).start_as_current_span(...)`.

    Returns:
        The step, with the methods `set(attributes)`, `rename(name)`, `failed(error)` and `ended(failure=None)`; None
        where the request is not traced.
    """
    return None if process.tracer is None else process.tracer.start(name, attributes)
