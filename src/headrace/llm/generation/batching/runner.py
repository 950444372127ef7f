"""What the batch needs of a model."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.llm.generation.batching.scheduler import PromptChunk
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import TokenLogprobs

Logits = Any
"""An array of (tokens or sequences, vocabulary), of whatever library the runner computes with."""


class BatchRunner(Protocol):
    """Computes logits. Every method is called on the model's thread."""

    def read_prompt(self, chunk: PromptChunk, *, all_logits: bool = False) -> Logits:
        """Read a part of a prompt, and note it in the sequence's `computed`.

        Returns:
            Logits after its last token, or after each of its tokens: then one row for each token that was read.
        """

    def next_logits(self, sequences: list[RunningSequence]) -> Logits:
        """Logits after the last token of each sequence; they are the first rows of the batch."""

    def sample(self, logits: Logits, sequences: list[RunningSequence]) -> tuple[list[int], list[TokenLogprobs | None]]:
        """Choose a token for each sequence, with its log probability where asked for."""

    def prompt_logprobs(self, logits: Logits, following: list[int], top: int) -> list[TokenLogprobs]:
        """Log probabilities of the token that follows each row, as far as there are any."""

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Copy what is kept for the first tokens of a row."""

    def forget(self, sequence: RunningSequence) -> None:
        """A sequence has left the batch."""

    def release(self) -> None:
        """Give memory back; the batch is empty."""
