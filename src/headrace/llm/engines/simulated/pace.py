"""When each token of an answer is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

TOKENS_AT_ONCE = 64
"""Tokens that an answer without delay gets per turn of the event loop, so that others get theirs."""

_SHORTEST_STEP_S = 0.001
"""Clocks of event loops tell no less."""


@dataclass(frozen=True, slots=True)
class Pace:
    """
    Attributes:
        began: when the answer's turn came, seconds on the event loop's clock.
        first_s: from then to its first token.
        each_s: between tokens.
    """

    began: float
    first_s: float
    each_s: float

    @classmethod
    def joining(cls, now: float, first_s: float, each_s: float) -> Pace:
        """The pace of an answer whose turn comes now. Engines generate a token for all answers of a batch at each step:
        so the first token waits for the next step, and tokens of all answers are due together."""
        if each_s < _SHORTEST_STEP_S:
            return cls(now, first_s, each_s)
        steps = math.ceil((now + first_s) / each_s)
        return cls(steps * each_s - first_s, first_s, each_s)

    def due(self, now: float, sent: int, length: int) -> int:
        """How many of `length` tokens should have been sent at `now`, at most `TOKENS_AT_ONCE` more than `sent`."""
        since_first = now - self.began - self.first_s
        if since_first < 0:
            return sent
        steps = length if self.each_s == 0 else min(since_first / self.each_s, length)
        due = 1 + int(steps + 1e-6)
        return max(sent, min(due, length, sent + TOKENS_AT_ONCE))

    def time_of(self, token: int) -> float:
        """When a token is due, counting from 0."""
        return self.began + self.first_s + token * self.each_s
