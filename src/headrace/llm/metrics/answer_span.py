"""The span of an answer, by OpenTelemetry's conventions for generative AI. It tells of models, tokens and times, and
nothing of what was asked or answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace import tracing

if TYPE_CHECKING:
    from headrace.llm.metrics.answers import AnswerRecord, Outcome

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/score": "score",
}


class AnswerSpan:
    """Of one answer, from its arrival at the replica on.

    Args:
        model_id: the base model's.
        engine: that answers: "vllm", "transformers", …
        path: of the API.
    """

    __slots__ = ("_model_id", "_span")

    def __init__(self, model_id: str, engine: str, path: str) -> None:
        self._model_id = model_id
        operation = _OPERATIONS.get(path)
        self._span = None
        if operation is not None:
            self._span = tracing.start_span(
                f"{operation} {model_id}",
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": engine,
                    "gen_ai.request.model": model_id,
                },
            )

    def ended(self, record: AnswerRecord, outcome: Outcome) -> None:
        """The answer has ended; what is known of it by now is told."""
        span = self._span
        if span is None:
            return
        times, usage = record.times, record.usage
        answering = f"{self._model_id}:{record.adapter}" if record.adapter else self._model_id
        attributes: dict[str, str | bool | int | float] = {"gen_ai.response.model": answering}
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
            if usage.cached_tokens:
                attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
        if times.first_at:
            attributes["gen_ai.request.stream"] = True
            began = record.request.received_at or times.asked_at
            attributes["gen_ai.response.time_to_first_chunk"] = max(0.0, times.first_at - began)
        span.set(attributes)
        span.ended(_FAILURES.get(outcome, outcome))


_FAILURES: dict[Outcome, str | None] = {"finished": None, "cancelled": "CancelledError"}
