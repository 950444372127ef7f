"""From logits to tokens: each row by its own parameters.

A row's token depends on its own logits, parameters and random numbers alone. Where a row needs its tokens sorted, it is
sorted in the same way whatever its neighbours need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import SamplingParameters, TokenLogprobs

# Tokens beyond the likeliest so many rarely matter to top_p; sorting all of a large vocabulary takes long.
_LIKELIEST = 1024


def sample(logits: torch.Tensor, sequences: Sequence[RunningSequence]) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Choose a token for each sequence.

    Args:
        logits: (sequences, vocabulary), 32-bit; changed in place.

    Returns:
        The tokens, and their log probabilities where asked for.
    """
    # As the logits were made in this mode, they can be changed in it alone.
    with torch.inference_mode():
        return _sample(logits, sequences)


def _sample(logits: torch.Tensor, sequences: Sequence[RunningSequence]) -> tuple[list[int], list[TokenLogprobs | None]]:
    asked = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
    raw = torch.log_softmax(logits[asked], dim=-1) if asked else None
    for row, sequence in enumerate(sequences):
        _adjust(logits[row], sequence)
    greedy = logits.argmax(dim=-1).tolist()
    tokens = [
        greedy[row] if sequence.sampling.temperature == 0.0 else _draw(logits[row], sequence)
        for row, sequence in enumerate(sequences)
    ]
    logprobs: list[TokenLogprobs | None] = [None] * len(tokens)
    for position, row in enumerate(asked):
        assert raw is not None
        logprobs[row] = token_logprobs(raw[position], tokens[row], sequences[row].sampling.logprobs or 0)
    return tokens, logprobs


def token_logprobs(logprobs: torch.Tensor, token_id: int, top: int) -> TokenLogprobs:
    """Of one position.

    Args:
        logprobs: of the whole vocabulary.
        top: so many of the likeliest.
    """
    likeliest: tuple[tuple[int, float], ...] = ()
    if top:
        values, ids = logprobs.topk(min(top, logprobs.shape[-1]))
        likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token_id, float(logprobs[token_id]), likeliest)


def _adjust(logits: torch.Tensor, sequence: RunningSequence) -> None:
    """Penalties, biases, and what is not allowed."""
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*sequence.prompt, *sequence.output}), device=logits.device)
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if sequence.counts:
        ids = torch.tensor(list(sequence.counts), device=logits.device)
        counts = torch.tensor(list(sequence.counts.values()), device=logits.device, dtype=logits.dtype)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(sampling.logit_bias.values()), device=logits.device, dtype=logits.dtype)
    if sampling.allowed_token_ids is not None:
        allowed = torch.tensor(sorted(sampling.allowed_token_ids), device=logits.device)
        kept = logits[allowed]
        logits.fill_(-math.inf)
        logits[allowed] = kept
    if sequence.matcher is not None and not sequence.matcher.is_error():
        allowed_bytes = torch.frombuffer(bytearray(sequence.matcher.compute_logit_bias()), dtype=torch.uint8)
        known = min(allowed_bytes.shape[0], logits.shape[0])
        logits[:known].masked_fill_((allowed_bytes[:known] == 0).to(logits.device), -math.inf)
        logits[known:] = -math.inf
    elif len(sequence.output) < sampling.min_tokens and sequence.ends:
        logits[torch.tensor(sorted(sequence.ends), device=logits.device)] = -math.inf


def _draw(logits: torch.Tensor, sequence: RunningSequence) -> int:
    sampling = sequence.sampling
    logits = logits / sampling.temperature
    if sampling.top_p < 1.0 or sampling.top_k:
        return _draw_sorted(logits, sampling, sequence.draw())
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.min_p:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
    return _pick(probabilities, sequence.draw())


def _draw_sorted(logits: torch.Tensor, sampling: SamplingParameters, draw: float) -> int:
    """From the likeliest tokens, sorted."""
    size = logits.shape[-1]
    limit = sampling.top_k if 0 < sampling.top_k < size else size
    values, ids = logits.topk(min(limit, _LIKELIEST))
    if limit < size:
        # top_k renormalizes before top_p looks at sums.
        if limit > values.shape[-1]:
            values, ids = logits.topk(limit)
        probabilities = torch.softmax(values, dim=-1)
    else:
        probabilities = torch.exp(values - torch.logsumexp(logits, dim=-1))
        if float(probabilities.sum()) < sampling.top_p and values.shape[-1] < size:
            values, ids = logits.sort(descending=True)
            probabilities = torch.softmax(values, dim=-1)
    if sampling.top_p < 1.0:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    if sampling.min_p:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities[0], 0.0)
    return int(ids[_pick(probabilities, draw)])


def _pick(probabilities: torch.Tensor, draw: float) -> int:
    """The first position at which the running sum passes `draw` times the whole sum."""
    sums = probabilities.cumsum(dim=-1)
    position = int(torch.searchsorted(sums, draw * sums[-1], right=True))
    # Rounding may put the draw past the last one that has any probability.
    return position if position < sums.shape[-1] else int(probabilities.nonzero()[-1])
