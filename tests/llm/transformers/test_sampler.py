"""The samplers of both engines choose the same tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.llm.engines.llamacpp import sampler as numpy_sampler
from headrace.llm.engines.transformers import sampler as torch_sampler
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import SamplingParameters

pytestmark = pytest.mark.full

_parameters = st.builds(
    SamplingParameters,
    max_tokens=st.just(50),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    top_k=st.sampled_from([0, 3, 40, 1500, 5000]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.sampled_from([None, {3: 2.5, 7: -100.0}]),
    allowed_token_ids=st.sampled_from([None, frozenset(range(0, 90, 3))]),
    min_tokens=st.sampled_from([0, 2]),
    seed=st.integers(0, 2**40),
    logprobs=st.sampled_from([None, 0, 3]),
)


@settings(deadline=None)
@given(st.lists(_parameters, min_size=1, max_size=4), st.sampled_from([100, 4000]), st.integers(0, 2**32 - 1))
def test_both_samplers_choose_the_same(parameters: list[SamplingParameters], size: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    ours = [[RunningSequence([3, 9], each, lambda step: None, frozenset({5})) for each in parameters] for _ in range(2)]

    for _ in range(4):
        logits = (numbers.standard_normal((len(parameters), size)) * 3).astype(np.float32)
        tokens, logprobs = torch_sampler.sample(torch.from_numpy(logits.copy()), ours[0])
        expected, expected_logprobs = numpy_sampler.sample(logits, ours[1])
        assert tokens == expected
        for found, wanted in zip(logprobs, expected_logprobs, strict=True):
            assert (found is None) == (wanted is None)
            if found is not None and wanted is not None:
                assert found.logprob == pytest.approx(wanted.logprob, abs=1e-3)
                assert [token for token, _ in found.top] == [token for token, _ in wanted.top]
        for sequences in ours:
            for sequence, token in zip(sequences, tokens, strict=True):
                sequence.append(token)
