"""Models of transformers behind the APIs of OpenAI and Anthropic."""

from __future__ import annotations

from headrace.llm.config import LLMConfig
from headrace.llm.engines.transformers.settings import TransformersSettings
from headrace.llm.engines.transformers.token_engine import TransformersTokenEngine
from headrace.llm.generation.engine import GenerationEngine


class TransformersEngine(GenerationEngine):
    """Any causal model of transformers (or one that embeds) on CPU, CUDA or MPS. Needs the extra `transformers`."""

    def __init__(self, config: LLMConfig) -> None:
        """
        Args:
            config: `engine_kwargs` are those of `TransformersSettings`.

        Raises:
            ConfigError: an argument is wrong; names it.
        """
        settings = TransformersSettings(**config.engine_kwargs)
        super().__init__(TransformersTokenEngine(config.model_id, config.model_source, settings))
