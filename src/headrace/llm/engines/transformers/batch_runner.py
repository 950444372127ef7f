"""Forward passes of a model for a running batch.

`SlotRunner` runs the whole batch in one pass, over a `SlotCache`. `SeparateRunner` runs each request by itself, with
the cache that transformers makes for it: for architectures that `SlotRunner` does not get right (states in place of
keys and values, positions of their own kind). Which of them a model gets is tried when it is loaded, see `runner_for`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from headrace.llm.engines.transformers.attention_masks import AttentionKinds, attention_kinds
from headrace.llm.engines.transformers.sampler import sample, token_logprobs
from headrace.llm.engines.transformers.slot_cache import SlotCache
from headrace.llm.generation.batching.scheduler import PromptChunk
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import SamplingParameters, TokenLogprobs

logger = logging.getLogger(__name__)


class TorchSampling:
    """What both runners do with logits."""

    def sample(
        self, logits: torch.Tensor, sequences: list[RunningSequence]
    ) -> tuple[list[int], list[TokenLogprobs | None]]:
        """Choose a token for each sequence."""
        return sample(logits, sequences)

    def prompt_logprobs(self, logits: torch.Tensor, following: list[int], top: int) -> list[TokenLogprobs]:
        """Log probabilities of the token that follows each row."""
        logprobs = torch.log_softmax(logits, dim=-1)
        return [token_logprobs(logprobs[row], token_id, top) for row, token_id in enumerate(following)]

    def forget(self, sequence: RunningSequence) -> None:
        """Rows are written over, and states go with their sequences."""


class SlotRunner(TorchSampling):
    """One forward pass for the whole batch."""

    batches = True

    def __init__(self, model: Any, kinds: AttentionKinds, max_rows: int, max_length: int) -> None:
        self._model = model
        self._kinds = kinds
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, max_rows, max_length)
        self._keeps_logits = bool(model._supports_logits_to_keep())

    def read_prompt(self, chunk: PromptChunk, *, all_logits: bool = False) -> torch.Tensor:
        sequence, row, start, stop = chunk
        device = self._model.device
        self._cache.reserve(row + 1, stop)
        work = self._cache.work
        work.first, work.rows, work.start, work.length = row, 1, start, stop
        work.positions = work.index = None
        positions = torch.arange(start, stop, device=device)[None]
        tokens = torch.tensor([sequence.prompt[start:stop]], device=device)
        sequence.computed = stop
        return self._forward(tokens, positions, all_logits)[0]

    def next_logits(self, sequences: list[RunningSequence]) -> torch.Tensor:
        device = self._model.device
        lengths = [sequence.computed for sequence in sequences]
        longest = max(lengths) + 1
        self._cache.reserve(len(sequences), longest)
        work = self._cache.work
        work.first, work.rows, work.start, work.length = 0, len(sequences), longest - 1, longest
        work.positions = torch.tensor(lengths, device=device)
        work.index = torch.arange(len(sequences), device=device)
        tokens = torch.tensor([[sequence.last_token] for sequence in sequences], device=device)
        logits = self._forward(tokens, work.positions[:, None], False)[:, -1]
        for sequence in sequences:
            sequence.computed += 1
        return logits

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, all_logits: bool) -> torch.Tensor:
        masks = self._kinds.masks(positions, self._cache.work.length, self._model.dtype)
        extra = {"logits_to_keep": 1} if self._keeps_logits and not all_logits else {}
        with torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=masks,
                past_key_values=self._cache,
                use_cache=True,
                **extra,
            ).logits
        return (logits if all_logits else logits[:, -1:]).float()

    def move_row(self, source: int, target: int, tokens: int) -> None:
        self._cache.move(source, target, tokens)

    def release(self) -> None:
        self._cache.release()


class SeparateRunner(TorchSampling):
    """A forward pass for each request, prepared by transformers' own `generate` machinery."""

    batches = False

    def __init__(self, model: Any) -> None:
        self._model = model

    def read_prompt(self, chunk: PromptChunk, *, all_logits: bool = False) -> torch.Tensor:
        # The whole prompt at once: not every architecture can be continued within it.
        sequence = chunk.sequence
        sequence.computed = len(sequence.prompt)
        tokens = torch.tensor([sequence.prompt], device=self._model.device)
        sequence.state = {"tokens": tokens, "arguments": self._first_arguments(tokens)}
        return self._forward(sequence.state)[0] if all_logits else self._forward(sequence.state)[0, -1:]

    def _first_arguments(self, tokens: torch.Tensor) -> dict[str, Any]:
        arguments: dict[str, Any] = {"attention_mask": torch.ones_like(tokens), "use_cache": True}
        config = self._model.generation_config
        self._model._prepare_cache_for_generation(config, arguments, None, 1, tokens.shape[1])
        return arguments

    def next_logits(self, sequences: list[RunningSequence]) -> torch.Tensor:
        rows = []
        for sequence in sequences:
            state = sequence.state
            last = torch.tensor([[sequence.last_token]], device=self._model.device)
            state["tokens"] = torch.cat([state["tokens"], last], dim=1)
            rows.append(self._forward(state)[0, -1:])
            sequence.computed += 1
        return torch.cat(rows)

    def _forward(self, state: dict[str, Any]) -> torch.Tensor:
        model = self._model
        first = "started" not in state
        state["started"] = True
        with torch.inference_mode():
            inputs = model.prepare_inputs_for_generation(
                state["tokens"],
                next_sequence_length=None if first else 1,
                is_first_iteration=first,
                **state["arguments"],
            )
            outputs = model(**inputs, return_dict=True)
        state["arguments"] = model._update_model_kwargs_for_generation(outputs, state["arguments"])
        logits: torch.Tensor = outputs.logits
        return logits.float()

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """What is kept moves with the sequence."""

    def release(self) -> None:
        """Each sequence's memory goes with it."""


def runner_for(model: Any, max_rows: int, max_length: int) -> SlotRunner | SeparateRunner:
    """The runner that a model works with: the one for batches if it computes what the model alone computes."""
    kinds = attention_kinds(model.config.get_text_config())
    if kinds is not None:
        try:
            if _agrees(model, SlotRunner(model, kinds, max_rows, max_length), min(max_rows, 2), max_length):
                return SlotRunner(model, kinds, max_rows, max_length)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            logger.info("Batched passes failed with %s: %s", type(model).__name__, error)
    logger.warning("%s takes requests one by one: its layers do not fit a batch of rows", type(model).__name__)
    return SeparateRunner(model)


def _agrees(model: Any, runner: SlotRunner, rows: int, max_length: int) -> bool:
    """Two prompts of different lengths, read in parts and continued together, against one pass over each alone."""
    size = model.config.get_text_config().vocab_size
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    length = max(2, min(max_length - 2, window + 8 if 0 < window <= 64 else 12))
    sequences = []
    prompts = [[(7 * place + 3 * row + 1) % size for place in range(length - 3 * row)] for row in range(rows)]
    for row, prompt in enumerate(prompts):
        sequence = RunningSequence(prompt, SamplingParameters(max_tokens=2), _nobody, frozenset())
        half = max(1, len(prompt) // 2)
        for start, stop in ((0, half), (half, len(prompt))):
            if stop > start:
                runner.read_prompt(PromptChunk(sequence, row, start, stop))
        sequence.output.append((5 + row) % size)
        sequences.append(sequence)
    found = runner.next_logits(sequences)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor([sequence.prompt + sequence.output], device=model.device)
        with torch.inference_mode():
            expected = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
        # A wrong mask or position is far off; rounding, even of 16-bit weights, is not.
        spread = float(expected.std()) or 1.0
        if float((found[row] - expected).abs().max()) > (0.001 if model.dtype == torch.float32 else 0.25) * spread:
            return False
    return True


def _nobody(step: Any) -> None:
    """Nobody reads what is only tried."""
