"""GGUF models of llama.cpp behind the APIs of OpenAI and Anthropic."""

from __future__ import annotations

from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.llamacpp.settings import LlamaCppSettings
from headrace.llm.generation.batching.engine import BatchingEngine, LoadedModel, Report
from headrace.llm.generation.engine import GenerationEngine


class LlamaCppEngine(GenerationEngine):
    """Models in GGUF files. Needs the extra `llamacpp`."""

    def __init__(self, config: LLMConfig) -> None:
        """
        Args:
            config: its `model_source` is the path of a GGUF file; `engine_kwargs` are those of `LlamaCppSettings`.

        Raises:
            ConfigError: an argument is wrong; names it.
        """
        settings = LlamaCppSettings(**config.engine_kwargs)

        def load(report: Report) -> LoadedModel:
            # Reads shared libraries: not where an application is only described.
            from headrace.llm.engines.llamacpp.loading import load_model

            return load_model(config.model_id, config.model_source, settings, report)

        super().__init__(
            BatchingEngine(
                load,
                max_sequences=settings.max_num_seqs,
                prompt_tokens_per_step=settings.n_batch,
                seed=settings.seed,
            )
        )
