"""What a model's replica counts and measures of its answers.

Times are taken at an answer's beginning, at its first piece and at its end; tokens are what the engine has counted by
then. Nothing is done per token.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from typing import Literal

from headrace import metrics
from headrace.llm.engines.protocol import AnswerTimes, EngineLoad, EngineRequest, TokenUsage
from headrace.llm.metrics.answer_span import AnswerSpan

Outcome = Literal["finished", "invalid", "overloaded", "asleep", "cancelled", "error"]
"""How a request ended: answered; wrong; refused, since too many wait or the model sleeps; given up; failed."""

LATENCY_BOUNDARIES_S = [
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
]
TOKEN_BOUNDARIES_S = [
    *(0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
]

GENERATING_PATHS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
"""Requests whose latencies are comparable: those that a text is generated for."""

_KEYS = ("model", "adapter")


class AnswerMetrics:
    """Of one model in one replica. See docs/metrics.md for what each one tells.

    Args:
        model_id: the value of the label `model`.
        paths: of the API that the model answers.
        engine: its name, for traces.
    """

    def __init__(self, model_id: str, paths: frozenset[str], engine: str = "") -> None:
        self.model_id = model_id
        self.engine = engine
        self._paths = paths
        self._requests = metrics.Counter(
            "serve_llm_requests", "Requests to models that have ended.", tag_keys=(*_KEYS, "path", "outcome")
        )
        self._prompt = metrics.Counter("serve_llm_prompt_tokens", "Tokens of prompts.", tag_keys=_KEYS)
        self._cached = metrics.Counter(
            "serve_llm_cached_prompt_tokens", "Tokens of prompts that the KV cache had already.", tag_keys=_KEYS
        )
        self._generated = metrics.Counter("serve_llm_generated_tokens", "Tokens of answers.", tag_keys=_KEYS)
        self._first_token = metrics.Histogram(
            "serve_llm_time_to_first_token_seconds",
            "From the front's having read a request to the engine's first token; streamed answers.",
            LATENCY_BOUNDARIES_S,
            tag_keys=_KEYS,
        )
        self._per_token = metrics.Histogram(
            "serve_llm_time_per_output_token_seconds",
            "From the engine's first token to its last, per token between; streamed answers.",
            TOKEN_BOUNDARIES_S,
            tag_keys=_KEYS,
        )
        self._latency = metrics.Histogram(
            "serve_llm_request_latency_seconds",
            "From the front's having read a request to the end of the engine's answer.",
            LATENCY_BOUNDARIES_S,
            tag_keys=_KEYS,
        )

    def watch(self, load: Callable[[], EngineLoad]) -> None:
        """Have scrapes tell the load of an engine.

        Args:
            load: its bound method; called from a scrape's thread. The engine is not kept alive by this.
        """
        tags = {"model": self.model_id}
        known = weakref.WeakMethod(load)

        def figure(read: Callable[[EngineLoad], float | None]) -> Callable[[], float]:
            def ask() -> float:
                method = known()
                value = None if method is None else read(method())
                return math.nan if value is None else value

            return ask

        for name, description, read in _GAUGES:
            metrics.Gauge(name, description, tag_keys=("model",)).set_function(figure(read), tags)

    def begin(self, request: EngineRequest) -> AnswerRecord:
        """Watch the answer to a request."""
        return AnswerRecord(self, request)

    def ended(self, record: AnswerRecord, outcome: Outcome) -> None:
        """Count an answer."""
        request, usage, times = record.request, record.usage, record.times
        if outcome == "finished" and usage is not None and usage.failed:
            outcome = "error"
        record.span.ended(record, outcome)
        tags = {"model": self.model_id, "adapter": record.adapter}
        path = request.path if request.path in self._paths else "other"
        self._requests.inc(1, {**tags, "path": path, "outcome": outcome})
        if usage is not None:
            times.tokens = usage.completion_tokens
            self._prompt.inc(usage.prompt_tokens, tags)
            self._generated.inc(times.tokens, tags)
            if usage.cached_tokens:
                self._cached.inc(usage.cached_tokens, tags)
        if request.priority > 0 or request.path not in GENERATING_PATHS:
            return  # nobody waits for an offline batch
        began = request.received_at or times.asked_at
        if times.first_at:
            self._first_token.observe(max(0.0, times.first_at - began), tags)
        if outcome == "finished":
            self._latency.observe(max(0.0, times.last_at - began), tags)
            if times.first_at and times.tokens > 1:
                self._per_token.observe(max(0.0, times.last_at - times.first_at) / (times.tokens - 1), tags)


_GAUGES: tuple[tuple[str, str, Callable[[EngineLoad], float | None]], ...] = (
    ("serve_llm_requests_running", "Requests that the engine generates answers for.", lambda load: load.running),
    ("serve_llm_requests_waiting", "Requests that wait in the engine.", lambda load: load.waiting),
    ("serve_llm_kv_cache_use", "Share of the engine's KV cache in use, 0 to 1.", lambda load: load.kv_cache_use),
)


class AnswerRecord:
    """One request, from its arrival at the replica on.

    Attributes:
        request: the request.
        times: of its answer, filled in as they pass.
        usage: what the engine counts; None where it does not.
        adapter: the name of the LoRA adapter that answers; "" for the base model.
        span: what traces it.
    """

    __slots__ = ("_ended", "_metrics", "adapter", "request", "span", "times", "usage")

    def __init__(self, metrics: AnswerMetrics, request: EngineRequest) -> None:
        self.request = request
        self.times = AnswerTimes(time.time())
        self.usage: TokenUsage | None = None
        self.adapter = ""
        self.span = AnswerSpan(metrics.model_id, metrics.engine, request.path)
        self._metrics = metrics
        self._ended = False

    def asked(self) -> None:
        """The engine is asked now."""
        self.times.asked_at = time.time()

    def first(self) -> None:
        """The answer's first piece is there."""
        self.times.first_at = time.time()

    def ended(self, outcome: Outcome) -> None:
        """Nothing more comes. Only the first call counts."""
        if not self._ended:
            self._ended = True
            self.times.last_at = time.time()
            self._metrics.ended(self, outcome)


def outcome_of(status: int) -> Outcome:
    """How a request ended that was answered at once, by the status of the answer."""
    return "finished" if status < 400 else "invalid" if status < 500 else "error"
