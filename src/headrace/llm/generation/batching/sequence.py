"""One request, on its way through the batch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from headrace.llm.generation.token_engine import GenerationFailedError, SamplingParameters, Step

Deliver = Callable[[Step | BaseException], None]


class RunningSequence:
    """
    Attributes:
        prompt: its tokens.
        sampling: how its answer's tokens are chosen.
        deliver: hands a step to the reader; called on the event loop.
        ends: tokens that end the answer.
        matcher: says which tokens its constraint allows; None: all.
        output: the answer's tokens so far.
        counts: how often the answer has each token; kept only where penalties need it.
        computed: so many of its tokens are in the KV cache.
        cancelled: nobody reads it any more.
        failure: why it cannot go on; None: it can.
        state: whatever the runner keeps for it.
    """

    __slots__ = (
        "_random",
        "cancelled",
        "computed",
        "counts",
        "deliver",
        "ends",
        "failure",
        "matcher",
        "output",
        "prompt",
        "prompt_logprobs",
        "sampling",
        "state",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: SamplingParameters,
        deliver: Deliver,
        ends: frozenset[int],
        matcher: Any = None,
    ) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.deliver = deliver
        self.ends = ends
        self.matcher = matcher
        self.output: list[int] = []
        self.counts: Counter[int] | None = (
            Counter() if sampling.presence_penalty or sampling.frequency_penalty else None
        )
        self.computed = 0
        self.cancelled = False
        self.failure: GenerationFailedError | None = None
        self.prompt_logprobs: list[Any] = []
        self.state: Any = None
        self._random = random.Random(sampling.seed)

    @property
    def in_prompt(self) -> bool:
        """Its prompt is not read to the end."""
        return self.computed < len(self.prompt)

    @property
    def last_token(self) -> int:
        return self.output[-1] if self.output else self.prompt[-1]

    def draw(self) -> float:
        """A number from 0 to 1, the next of its own: what else is in the batch has no influence."""
        return self._random.random()

    def append(self, token_id: int) -> Step:
        """Add a token; returns the step, which says if it was the last."""
        sampling = self.sampling
        self.output.append(token_id)
        if self.counts is not None:
            self.counts[token_id] += 1
        step = Step([token_id])
        if token_id in self.ends and len(self.output) > sampling.min_tokens:
            step.finish_reason = "stop"
            step.ended_by_token = True
        elif self.matcher is not None and self._matched(token_id):
            step.finish_reason = "stop"
        elif len(self.output) >= sampling.max_tokens:
            step.finish_reason = "length"
        return step

    def _matched(self, token_id: int) -> bool:
        """Tell the constraint of a token; True when nothing may follow."""
        self.matcher.consume_token(token_id)
        if self.matcher.is_error():
            self.failure = GenerationFailedError(f"The answer cannot match its schema: {self.matcher.get_error()}")
        return bool(self.matcher.is_stopped())
