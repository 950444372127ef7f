from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy")

from headrace.llm.engines.llamacpp.sampler import log_softmax, sample  # noqa: E402
from headrace.llm.generation.batching.sequence import RunningSequence  # noqa: E402
from headrace.llm.generation.token_engine import SamplingParameters  # noqa: E402

_logits = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40, unique=True)


def _tokens(logits: list[float], count: int, **parameters: Any) -> list[int]:
    """So many draws of one request."""
    sequence = RunningSequence(
        [0], SamplingParameters(max_tokens=99, **{"seed": 1, **parameters}), lambda step: None, frozenset()
    )
    rows = [sample(np.array([logits], dtype=np.float32), [sequence])[0] for _ in range(count)]
    return [token for row in rows for token in row]


@given(_logits, st.integers(0, 2**40))
def test_zero_temperature_and_one_token_take_the_likeliest(logits: list[float], seed: int) -> None:
    likeliest = int(np.argmax(logits))

    assert _tokens(logits, 1, temperature=0.0) == [likeliest]
    assert _tokens(logits, 3, top_k=1, seed=seed) == [likeliest] * 3


@given(_logits, st.floats(0.05, 0.95), st.integers(0, 2**40))
def test_top_p_takes_of_the_smallest_set_that_reaches_it(logits: list[float], top_p: float, seed: int) -> None:
    probabilities = np.exp(log_softmax(np.array(logits, dtype=np.float32)))
    order = np.argsort(-probabilities)
    kept = order[: int((np.cumsum(probabilities[order]) < top_p - 1e-5).sum()) + 2]

    assert set(_tokens(logits, 5, top_p=top_p, seed=seed)) <= set(kept.tolist())


@given(_logits, st.integers(1, 50), st.floats(0, 1), st.integers(0, 2**40))
def test_top_k_and_min_p_take_none_of_the_others(logits: list[float], top_k: int, min_p: float, seed: int) -> None:
    order = np.argsort(-np.array(logits)).tolist()
    drawn = _tokens(logits, 5, top_k=top_k, min_p=min_p, seed=seed)

    assert set(drawn) <= set(order[:top_k])
    assert all(np.exp(logits[token] - max(logits)) >= min_p - 1e-4 for token in drawn)


def test_draws_follow_the_probabilities() -> None:
    drawn = _tokens([float(np.log(0.7)), float(np.log(0.2)), float(np.log(0.1))], 4000)

    assert [drawn.count(token) / 4000 for token in range(3)] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
