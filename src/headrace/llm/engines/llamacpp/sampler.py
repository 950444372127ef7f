"""From logits to tokens with NumPy: each row by its own parameters, as the engine `transformers` does with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import SamplingParameters, TokenLogprobs

Values = NDArray[np.float32]


def sample(logits: Values, sequences: Sequence[RunningSequence]) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Choose a token for each sequence.

    Args:
        logits: (sequences, vocabulary); changed in place.

    Returns:
        The tokens, and their log probabilities where asked for.
    """
    tokens: list[int] = []
    logprobs: list[TokenLogprobs | None] = []
    for row, sequence in zip(logits, sequences, strict=True):
        top = sequence.sampling.logprobs
        raw = None if top is None else log_softmax(row)
        _adjust(row, sequence)
        token_id = int(row.argmax()) if sequence.sampling.temperature == 0.0 else _draw(row, sequence)
        tokens.append(token_id)
        logprobs.append(None if raw is None else token_logprobs(raw, token_id, top or 0))
    return tokens, logprobs


def log_softmax(row: Values) -> Values:
    """Natural logarithms of probabilities."""
    shifted = row - row.max()
    result: Values = shifted - np.log(np.exp(shifted).sum())
    return result


def token_logprobs(logprobs: Values, token_id: int, top: int) -> TokenLogprobs:
    """Of one position.

    Args:
        logprobs: of the whole vocabulary.
        top: so many of the likeliest.
    """
    likeliest: Sequence[int] = _sorted(logprobs, top).tolist() if top else []
    return TokenLogprobs(
        token_id, float(logprobs[token_id]), tuple((place, float(logprobs[place])) for place in likeliest)
    )


def _sorted(values: Values, count: int) -> NDArray[np.int64]:
    """The places of the highest values, highest first."""
    count = min(count, values.shape[0])
    places = np.argpartition(-values, count - 1)[:count]
    result: NDArray[np.int64] = places[np.argsort(-values[places], kind="stable")]
    return result


def _adjust(row: Values, sequence: RunningSequence) -> None:
    """Penalties, biases, and what is not allowed."""
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1.0:
        seen = np.array(sorted({*sequence.prompt, *sequence.output}))
        penalty = sampling.repetition_penalty
        row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    for token_id, count in (sequence.counts or {}).items():
        row[token_id] -= sampling.presence_penalty + sampling.frequency_penalty * count
    for token_id, bias in (sampling.logit_bias or {}).items():
        row[token_id] += bias
    if sampling.allowed_token_ids is not None:
        forbidden = np.ones(row.shape, dtype=bool)
        forbidden[list(sampling.allowed_token_ids)] = False
        row[forbidden] = -np.inf
    if sequence.matcher is not None and not sequence.matcher.is_error():
        allowed = np.frombuffer(sequence.matcher.compute_logit_bias(), dtype=np.uint8)[: row.shape[0]]
        row[: allowed.shape[0]][allowed == 0] = -np.inf
        row[allowed.shape[0] :] = -np.inf
    elif len(sequence.output) < sampling.min_tokens and sequence.ends:
        row[list(sequence.ends)] = -np.inf


def _draw(row: Values, sequence: RunningSequence) -> int:
    sampling = sequence.sampling
    probabilities = np.exp(log_softmax(row / np.float32(sampling.temperature)).astype(np.float64))
    if sampling.top_p >= 1.0 and not sampling.top_k:
        if sampling.min_p:
            probabilities[probabilities < sampling.min_p * probabilities.max()] = 0.0
        return _pick(probabilities, sequence.draw())
    places = _sorted(row, sampling.top_k or row.shape[0])
    return int(places[_pick(_truncated(probabilities[places], sampling), sequence.draw())])


def _truncated(probabilities: NDArray[np.float64], sampling: SamplingParameters) -> NDArray[np.float64]:
    """Those that `top_p` and `min_p` keep, of sorted ones."""
    probabilities = probabilities / probabilities.sum()
    if sampling.top_p < 1.0:
        before = probabilities.cumsum() - probabilities
        probabilities = np.where(before >= sampling.top_p, 0.0, probabilities)
    if sampling.min_p:
        probabilities = np.where(probabilities < sampling.min_p * probabilities[0], 0.0, probabilities)
    return probabilities


def _pick(probabilities: NDArray[np.float64], draw: float) -> int:
    """The first position at which the running sum passes `draw` times the whole sum."""
    sums = probabilities.cumsum()
    position = int(np.searchsorted(sums, draw * sums[-1], side="right"))
    # Rounding may put the draw past the last one that has any probability.
    return position if position < sums.shape[0] else int(probabilities.nonzero()[0][-1])
