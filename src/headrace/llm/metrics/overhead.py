"""What the serving layer adds to the engine's own times, measured where answers are sent.

The times of a streamed answer travel with it, so that the front can tell the engine's share from the rest. They are
wall clock times of two processes: on one machine they agree; between machines they are as far off as the clocks.
"""

from __future__ import annotations

from headrace import metrics
from headrace.llm.engines.protocol import AnswerTimes, EngineRequest

_KEYS = ("model", "adapter")

FIRST_TOKEN_BOUNDARIES_S = [
    *(0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.0075),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
]
PER_TOKEN_BOUNDARIES_S = [
    *(0.000001, 0.0000025, 0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.1),
]


class OverheadMetrics:
    """Of one front, over all its models."""

    def __init__(self) -> None:
        self._first_token = metrics.Histogram(
            "serve_llm_serving_overhead_first_token_seconds",
            "The time to first token less the engine's: until it is asked, and from its first token to the client.",
            FIRST_TOKEN_BOUNDARIES_S,
            tag_keys=_KEYS,
        )
        self._per_token = metrics.Histogram(
            "serve_llm_serving_overhead_per_output_token_seconds",
            "By how much the time between two tokens is longer as sent than as generated.",
            PER_TOKEN_BOUNDARIES_S,
            tag_keys=_KEYS,
        )

    def sent(
        self, request: EngineRequest, times: AnswerTimes, tags: dict[str, str], first_at: float, last_at: float
    ) -> None:
        """A streamed answer has been sent.

        Args:
            request: what was asked.
            times: what the model's replica tells of its answer.
            tags: `model` and `adapter`.
            first_at, last_at: `time.time()` when the first and the last piece had been sent.
        """
        if request.priority > 0 or not times.first_at:
            return
        self._first_token.observe(_first_token_s(request.received_at, times, first_at), tags)
        if times.last_at and times.tokens > 1:
            self._per_token.observe(_per_token_s(times, first_at, last_at), tags)


def _first_token_s(received_at: float, times: AnswerTimes, sent_at: float) -> float:
    # Each part on its own: of clocks that disagree, one would hide what the other adds.
    return max(0.0, times.asked_at - received_at) + max(0.0, sent_at - times.first_at)


def _per_token_s(times: AnswerTimes, first_at: float, last_at: float) -> float:
    # Differences of one clock each, so that clocks need not agree.
    return max(0.0, (last_at - first_at) - (times.last_at - times.first_at)) / (times.tokens - 1)
