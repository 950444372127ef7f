"""What a request gets does not depend on who else is in the batch."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from headrace.llm.engines.transformers.batch_runner import runner_for
from headrace.llm.engines.transformers.engine import load_model
from headrace.llm.engines.transformers.settings import TransformersSettings
from headrace.llm.generation.batching.engine import BatchingEngine
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.batching.step_stream import StepStream
from headrace.llm.generation.batching.worker import ModelWorker
from headrace.llm.generation.token_engine import SamplingParameters, Step

pytestmark = pytest.mark.full


def _expected(model: Any, prompt: list[int], count: int) -> list[int]:
    """What transformers alone generates."""
    tokens = torch.tensor([prompt])
    ids = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=-1,
        pad_token_id=0,
    )
    found: list[int] = ids[0, len(prompt) :].tolist()
    return found


def _requests(seed: int, vocabulary: int, count: int) -> list[tuple[list[int], int, float]]:
    """Prompts, lengths of answers and times of arrival."""
    chosen = random.Random(seed)
    return [
        ([chosen.randrange(7, vocabulary) for _ in range(chosen.randint(1, 40))], chosen.randint(1, 24),
         chosen.random() * 0.1)
        for _ in range(count)
    ]  # fmt: skip


async def _generated(
    worker: ModelWorker, prompt: list[int], sampling: SamplingParameters, after_s: float = 0.0
) -> list[int]:
    await asyncio.sleep(after_s)
    stream = StepStream()
    worker.add(RunningSequence(prompt, sampling, stream.put, frozenset()), 0)
    tokens: list[int] = []
    while True:
        step: Step = await stream.next()
        tokens += step.token_ids
        if step.finish_reason is not None:
            return tokens


async def _compare(model: Any, seed: int, *, batches: bool, max_length: int = 256, count: int = 12) -> None:
    runner = runner_for(model, 4, max_length)
    assert runner.batches is batches
    worker = ModelWorker(runner, asyncio.get_running_loop(), max_sequences=4, prompt_tokens_per_step=16)
    worker.start()
    requests = _requests(seed, model.config.vocab_size, count)
    try:
        found = await asyncio.gather(
            *(
                _generated(worker, prompt, SamplingParameters(max_tokens=length, temperature=0.0), after_s)
                for prompt, length, after_s in requests
            )
        )
    finally:
        await worker.stop()
    assert found == [_expected(model, prompt, length) for prompt, length, _ in requests]


@pytest.mark.parametrize("seed", range(4))
async def test_greedy_answers_are_those_of_generate_for_any_order_of_arrival(tiny: Path, seed: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()

    await _compare(model, seed, batches=True, count=20)


_SMALL: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.3,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


async def test_models_with_a_sliding_window_run_in_a_batch() -> None:
    torch.manual_seed(0)
    await _compare(MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=8)).eval(), 1, batches=True)


async def test_models_with_several_kinds_of_attention_run_in_a_batch() -> None:
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**_SMALL, sliding_window=8, layer_types=kinds)
    await _compare(Gemma3ForCausalLM(config).eval(), 2, batches=True)


async def test_models_with_learned_positions_run_in_a_batch() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=200, n_positions=256, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    await _compare(GPT2LMHeadModel(config).eval(), 3, batches=True)


async def test_models_with_states_in_place_of_keys_and_values_run_one_by_one() -> None:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3, eos_token_id=2,
        bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    await _compare(MambaForCausalLM(config).eval(), 4, batches=False, count=5)


async def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch(tiny: Path) -> None:
    settings = TransformersSettings(dtype="float32")
    engine = BatchingEngine(
        lambda report: load_model("tiny", str(tiny), settings, report),
        max_sequences=8,
        prompt_tokens_per_step=64,
        seed=None,
    )
    await engine.start(lambda progress: None)
    prompt = list(range(20, 35))
    parameters = [
        SamplingParameters(max_tokens=20, seed=7, ignore_eos=True),
        SamplingParameters(max_tokens=20, seed=7, ignore_eos=True, top_p=0.8, temperature=1.3),
        SamplingParameters(max_tokens=20, seed=7, ignore_eos=True, top_k=5, min_p=0.01, presence_penalty=1.0),
    ]

    async def answer(sampling: SamplingParameters, prompt: list[int] = prompt) -> list[int]:
        return [token async for step in engine.generate(prompt, sampling) for token in step.token_ids]

    try:
        alone = [await answer(sampling) for sampling in parameters]
        others = [
            answer(SamplingParameters(max_tokens=5 + place, ignore_eos=True, top_p=0.5), list(range(8, 9 + place)))
            for place in range(12)
        ]
        together, *_ = await asyncio.gather(asyncio.gather(*map(answer, parameters)), *others)
        other_seed = await answer(SamplingParameters(max_tokens=20, seed=8, ignore_eos=True))
    finally:
        await engine.stop()

    assert together == alone
    assert other_seed != alone[0]
