"""Any causal model of transformers as a `TokenEngine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from headrace.exceptions import ConfigError
from headrace.llm.engines.protocol import EngineLoad, LoadingProgress
from headrace.llm.engines.transformers.settings import TransformersSettings
from headrace.llm.engines.transformers.step_stream import StepStream
from headrace.llm.generation.token_engine import (
    GenerationFailedError,
    OutputConstraint,
    SamplingParameters,
    Step,
    TokenModel,
)


class TransformersTokenEngine:
    """Runs a model on a thread of its own, with continuous batching."""

    def __init__(self, model_id: str, source: str, settings: TransformersSettings) -> None:
        """
        Args:
            model_id: as clients name it.
            source: id on the Hugging Face hub, or a folder.
        """
        self._model_id = model_id
        self._source = source
        self._settings = settings
        self._loaded: Any = None
        self._worker: Any = None
        self._runner: Any = None
        self._constraints: Any = None
        self._seeds = 0

    async def start(self, report: Callable[[LoadingProgress], None]) -> TokenModel:
        """See `TokenEngine.start`."""
        loop = asyncio.get_running_loop()

        def tell(progress: LoadingProgress) -> None:
            loop.call_soon_threadsafe(report, progress)

        await asyncio.to_thread(self._load, tell)
        from headrace.llm.engines.transformers.tokenizer import HuggingFaceTokenizer
        from headrace.llm.engines.transformers.worker import ModelWorker

        loaded, settings = self._loaded, self._settings
        self._worker = ModelWorker(
            self._runner,
            loop,
            max_sequences=settings.max_num_seqs,
            prompt_tokens_per_step=settings.max_num_batched_tokens,
        )
        self._worker.start()
        size = max(loaded.model.config.get_text_config().vocab_size, len(loaded.tokenizer))
        tokenizer = HuggingFaceTokenizer(loaded.tokenizer, size, settings.chat_template)
        return TokenModel(
            self._model_id,
            "transformers",
            tokenizer,
            loaded.max_model_len,
            loaded.weights_bytes,
            generates=loaded.generates,
            embeds=not loaded.generates,
            constraints=self._constraints.kinds() if loaded.generates else frozenset(),
            chats=bool(loaded.tokenizer.chat_template),
            default_sampling=loaded.default_sampling,
        )

    def _load(self, report: Callable[[LoadingProgress], None]) -> None:
        # PyTorch and transformers take seconds to import: not on the replica's loop.
        from headrace.llm.engines.transformers.batch_runner import SeparateRunner, runner_for
        from headrace.llm.engines.transformers.constraints import Constraints
        from headrace.llm.engines.transformers.loading import load

        loaded = load(self._source, self._settings, report)
        self._loaded = loaded
        report(LoadingProgress("warming up", None, loaded.weights_bytes))
        if loaded.generates:
            self._runner = runner_for(loaded.model, self._settings.max_num_seqs, loaded.max_model_len)
            size = loaded.model.config.get_text_config().vocab_size
            self._constraints = Constraints(loaded.tokenizer, size, loaded.ends)
        else:
            self._runner = SeparateRunner(loaded.model)

    async def generate(
        self, prompt: Sequence[int], sampling: SamplingParameters, *, adapter: str | None = None, priority: int = 0
    ) -> AsyncGenerator[Step, None]:
        """See `TokenEngine.generate`."""
        from headrace.llm.engines.transformers.sequence import RunningSequence

        if adapter is not None:
            raise GenerationFailedError(f"The engine 'transformers' has no adapter {adapter!r}")
        if sampling.seed is None and self._settings.seed is not None:
            self._seeds += 1
            sampling = msgspec.structs.replace(sampling, seed=self._settings.seed + self._seeds)
        ends = sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | self._loaded.ends
        matcher = None
        if sampling.constraint is not None:
            matcher = await asyncio.to_thread(self._constraints.matcher, sampling.constraint)
        stream = StepStream()
        sequence = RunningSequence(prompt, sampling, stream.put, ends, matcher)
        self._worker.add(sequence, priority)
        ended = False
        try:
            while not ended:
                step = await stream.next()
                ended = step.finish_reason is not None
                yield step
        finally:
            if not ended:
                self._worker.cancel(sequence)

    async def check_constraint(self, constraint: OutputConstraint) -> None:
        """See `TokenEngine.check_constraint`."""
        await asyncio.to_thread(self._constraints.matcher, constraint)

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `TokenEngine.embed`."""
        from headrace.llm.engines.transformers.pooling import embed

        vectors: list[list[float]] = await self._worker.call(
            lambda: embed(self._loaded.model, self._loaded.tokenizer, self._source, prompts)
        )
        return vectors

    async def check_health(self) -> None:
        """See `TokenEngine.check_health`."""
        if self._worker is None:
            raise GenerationFailedError("The model is not loaded")
        if self._worker.error is not None:
            raise GenerationFailedError(f"The model's thread ended: {self._worker.error!r}")

    def load(self) -> EngineLoad:
        """See `TokenEngine.load`."""
        if self._worker is None:
            return EngineLoad(0, 0)
        room = self._settings.max_num_seqs * self._loaded.max_model_len
        return EngineLoad(self._worker.running, self._worker.waiting, self._worker.tokens_held / room)

    async def add_adapter(self, name: str, path: str) -> None:
        """See `TokenEngine.add_adapter`."""
        raise ConfigError(f"lora_config: the engine 'transformers' has no adapters, so {name!r} cannot be loaded")

    async def remove_adapter(self, name: str) -> None:
        """There are none."""

    async def sleep(self, level: int) -> None:
        """See `TokenEngine.sleep`. Requests that come meanwhile wait."""

        def free() -> None:
            import torch

            self._runner.release()
            # Weights in main memory stay there at both levels; they are read again only from a device's.
            if self._loaded.model.device.type != "cpu":
                self._device = self._loaded.model.device
                self._loaded.model.to("cpu")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

        await self._worker.sleep(free)

    async def wake(self) -> None:
        """See `TokenEngine.wake`."""

        def restore() -> None:
            device = getattr(self, "_device", None)
            if device is not None:
                self._loaded.model.to(device)

        await self._worker.wake(restore)

    async def stop(self) -> None:
        """See `TokenEngine.stop`."""
        if self._worker is not None:
            await self._worker.stop()
        self._loaded = None
