"""Passes of llama.cpp for a running batch: every request is one of its sequences."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np

from headrace.llm.engines.llamacpp.sampler import Values, log_softmax, sample, token_logprobs
from headrace.llm.generation.batching.scheduler import PromptChunk
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import TokenLogprobs


class LlamaCppRunner:
    """A `BatchRunner` over llama.cpp's context."""

    def __init__(self, context: Any, vocabulary_size: int, max_sequences: int, batch_tokens: int) -> None:
        """
        Args:
            context: llama.cpp's, with room for `max_sequences` sequences.
            batch_tokens: in one pass, at most.
        """
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._vocabulary_size = vocabulary_size
        self._batch = llama_cpp.llama_batch_init(max(batch_tokens, max_sequences), 0, 1)
        self._free = list(range(max_sequences))

    def read_prompt(self, chunk: PromptChunk, *, all_logits: bool = False) -> Values:
        """See `BatchRunner.read_prompt`."""
        sequence, _, start, stop = chunk
        if sequence.state is None:
            sequence.state = self._free.pop()
        last = stop - 1
        self._decode(
            [
                (sequence.prompt[place], place, sequence.state, all_logits or place == last)
                for place in range(start, stop)
            ]
        )
        sequence.computed = stop
        return self._logits(range(stop - start) if all_logits else [stop - start - 1])

    def next_logits(self, sequences: list[RunningSequence]) -> Values:
        """See `BatchRunner.next_logits`."""
        self._decode([(sequence.last_token, sequence.computed, sequence.state, True) for sequence in sequences])
        for sequence in sequences:
            sequence.computed += 1
        return self._logits(range(len(sequences)))

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """One pass over tokens: id, position, sequence, and if its logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, (token_id, position, sequence_id, wanted) in enumerate(tokens):
            batch.token[place] = token_id
            batch.pos[place] = position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = sequence_id
            batch.logits[place] = wanted
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(
                "llama.cpp has no room for more tokens in its cache"
                if status == 1
                else f"llama.cpp could not compute: llama_decode returned {status}"
            )

    def _logits(self, places: Any) -> Values:
        rows = [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, place), shape=(self._vocabulary_size,))
            for place in places
        ]
        # A copy: llama.cpp writes over its own in the next pass.
        return np.stack(rows)

    def sample(self, logits: Values, sequences: list[RunningSequence]) -> tuple[list[int], list[TokenLogprobs | None]]:
        """See `BatchRunner.sample`."""
        return sample(logits, sequences)

    def prompt_logprobs(self, logits: Values, following: list[int], top: int) -> list[TokenLogprobs]:
        """See `BatchRunner.prompt_logprobs`."""
        return [token_logprobs(log_softmax(logits[row]), token_id, top) for row, token_id in enumerate(following)]

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Sequences keep their number, whatever row they are in."""

    def forget(self, sequence: RunningSequence) -> None:
        """See `BatchRunner.forget`."""
        if sequence.state is not None:
            llama_cpp.llama_memory_seq_rm(self._memory, sequence.state, -1, -1)
            self._free.append(sequence.state)
            sequence.state = None

    def release(self) -> None:
        """See `BatchRunner.release`."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the batch; nothing runs any more."""
        llama_cpp.llama_batch_free(self._batch)
