"""A token engine over anything that computes logits for a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from headrace.exceptions import ConfigError
from headrace.llm.engines.protocol import EngineLoad, LoadingProgress
from headrace.llm.generation.batching.constraints import Constraints
from headrace.llm.generation.batching.runner import BatchRunner
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.batching.step_stream import StepStream
from headrace.llm.generation.batching.worker import ModelWorker
from headrace.llm.generation.token_engine import (
    GenerationFailedError,
    OutputConstraint,
    SamplingParameters,
    Step,
    TokenModel,
)

Report = Callable[[LoadingProgress], None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """
    Attributes:
        model: what is served.
        runner: computes logits.
        ends: tokens with which the model ends an answer.
        constraints: makes matchers.
        free: gives back memory that a sleeping model can do without; called on the model's thread.
        restore: undoes that.
        close: frees everything; the thread has ended.
        embed: vectors of prompts, where the model has them; called on the model's thread.
    """

    model: TokenModel
    runner: BatchRunner
    ends: frozenset[int]
    constraints: Constraints
    free: Callable[[], None]
    restore: Callable[[], None]
    close: Callable[[], None]
    embed: Callable[[Sequence[Sequence[int]]], list[list[float]]] | None = None


class BatchingEngine:
    """A `TokenEngine` that runs a model on a thread of its own, with continuous batching."""

    def __init__(
        self,
        load: Callable[[Report], LoadedModel],
        *,
        max_sequences: int,
        prompt_tokens_per_step: int,
        seed: int | None,
    ) -> None:
        """
        Args:
            load: loads the model; called on a thread.
            max_sequences: requests in the batch at once.
            prompt_tokens_per_step: tokens of prompts that are read between two steps.
            seed: of requests that have none; None: they differ each time.
        """
        self._load = load
        self._max_sequences = max_sequences
        self._prompt_tokens_per_step = prompt_tokens_per_step
        self._seed = seed
        self._loaded: LoadedModel | None = None
        self._worker: ModelWorker | None = None

    async def start(self, report: Report) -> TokenModel:
        """See `TokenEngine.start`."""
        loop = asyncio.get_running_loop()

        def tell(progress: LoadingProgress) -> None:
            loop.call_soon_threadsafe(report, progress)

        self._loaded = await asyncio.to_thread(self._load, tell)
        self._worker = ModelWorker(
            self._loaded.runner,
            loop,
            max_sequences=self._max_sequences,
            prompt_tokens_per_step=self._prompt_tokens_per_step,
        )
        self._worker.start()
        return replace(self._loaded.model, max_sequences=self._max_sequences)

    def _running(self) -> tuple[LoadedModel, ModelWorker]:
        if self._loaded is None or self._worker is None:
            raise GenerationFailedError("The model is not loaded")
        return self._loaded, self._worker

    async def generate(
        self, prompt: Sequence[int], sampling: SamplingParameters, *, adapter: str | None = None, priority: int = 0
    ) -> AsyncGenerator[Step, None]:
        """See `TokenEngine.generate`."""
        loaded, worker = self._running()
        if adapter is not None:
            raise GenerationFailedError(f"The engine '{loaded.model.engine}' has no adapter {adapter!r}")
        if max(prompt) >= loaded.model.tokenizer.vocabulary_size:
            raise GenerationFailedError(f"The tokenizer made a token that the model does not have: {max(prompt)}")
        if sampling.seed is None and self._seed is not None:
            self._seed += 1
            sampling = msgspec.structs.replace(sampling, seed=self._seed)
        ends = sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | loaded.ends
        matcher = None
        if sampling.constraint is not None:
            matcher = await asyncio.to_thread(loaded.constraints.matcher, sampling.constraint)
        stream = StepStream()
        sequence = RunningSequence(prompt, sampling, stream.put, ends, matcher)
        worker.add(sequence, priority)
        ended = False
        try:
            while not ended:
                step = await stream.next()
                ended = step.finish_reason is not None
                yield step
        finally:
            if not ended:
                worker.cancel(sequence)

    async def check_constraint(self, constraint: OutputConstraint) -> None:
        """See `TokenEngine.check_constraint`."""
        await asyncio.to_thread(self._running()[0].constraints.matcher, constraint)

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `TokenEngine.embed`."""
        loaded, worker = self._running()
        embed = loaded.embed
        if embed is None:
            raise GenerationFailedError("The model does not embed")
        vectors: list[list[float]] = await worker.call(lambda: embed(prompts))
        return vectors

    async def check_health(self) -> None:
        """See `TokenEngine.check_health`."""
        _, worker = self._running()
        if worker.error is not None:
            raise GenerationFailedError(f"The model's thread ended: {worker.error!r}")

    def load(self) -> EngineLoad:
        """See `TokenEngine.load`."""
        if self._loaded is None or self._worker is None:
            return EngineLoad(0, 0)
        room = self._max_sequences * self._loaded.model.max_model_len
        return EngineLoad(self._worker.running, self._worker.waiting, self._worker.tokens_held / room)

    async def add_adapter(self, name: str, path: str) -> None:
        """See `TokenEngine.add_adapter`."""
        engine = self._running()[0].model.engine
        raise ConfigError(f"lora_config: the engine '{engine}' has no adapters, so {name!r} cannot be loaded")

    async def remove_adapter(self, name: str) -> None:
        """There are none."""

    async def sleep(self, level: int) -> None:
        """See `TokenEngine.sleep`. Requests that come meanwhile wait."""
        loaded, worker = self._running()

        def free() -> None:
            loaded.runner.release()
            loaded.free()

        await worker.sleep(free)

    async def wake(self) -> None:
        """See `TokenEngine.wake`."""
        loaded, worker = self._running()
        await worker.wake(loaded.restore)

    async def stop(self) -> None:
        """See `TokenEngine.stop`."""
        loaded, self._loaded = self._loaded, None
        if self._worker is not None:
            await self._worker.stop()
        if loaded is not None:
            loaded.close()
