"""Models of transformers behind the APIs of OpenAI and Anthropic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.protocol import LoadingProgress
from headrace.llm.engines.transformers.settings import TransformersSettings
from headrace.llm.generation.batching.constraints import Constraints
from headrace.llm.generation.batching.engine import BatchingEngine, LoadedModel, Report
from headrace.llm.generation.engine import GenerationEngine
from headrace.llm.generation.token_engine import TokenModel


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
        super().__init__(
            BatchingEngine(
                lambda report: load_model(config.model_id, config.model_source, settings, report),
                max_sequences=settings.max_num_seqs,
                prompt_tokens_per_step=settings.max_num_batched_tokens,
                seed=settings.seed,
            )
        )


def load_model(model_id: str, source: str, settings: TransformersSettings, report: Report) -> LoadedModel:
    """Load a model and find out how to run it; blocks for as long as it takes.

    Raises:
        ConfigError: there is no such model, or an argument does not fit it.
    """
    # PyTorch and transformers take seconds to import: not where an application is only described.
    import torch

    from headrace.llm.engines.transformers.batch_runner import SeparateRunner, runner_for
    from headrace.llm.engines.transformers.loading import load
    from headrace.llm.engines.transformers.pooling import embed
    from headrace.llm.engines.transformers.tokenizer import HuggingFaceTokenizer

    weights = load(source, settings, report)
    model, tokenizer = weights.model, weights.tokenizer
    report(LoadingProgress("warming up", None, weights.weights_bytes))
    runner = (
        runner_for(model, settings.max_num_seqs, weights.max_model_len) if weights.generates else SeparateRunner(model)
    )
    # Ids beyond the embeddings would end more than their request: on a GPU, everything.
    size = model.get_input_embeddings().num_embeddings
    device = model.device

    def read_vocabulary() -> Any:
        import llguidance.hf

        return llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=max(size, len(tokenizer)), eos_token=sorted(weights.ends)
        )

    def free() -> None:
        # In main memory weights stay at both levels: reading them again would gain nothing that can be used meanwhile.
        if device.type != "cpu":
            model.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def restore() -> None:
        if device.type != "cpu":
            model.to(device)

    def close() -> None:
        runner.release()

    def embed_all(prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return embed(model, tokenizer, source, prompts)

    wrapped = HuggingFaceTokenizer(tokenizer, size, settings.chat_template)
    constraints = Constraints(read_vocabulary, weights.generates and tokenizer.is_fast and bool(weights.ends))
    return LoadedModel(
        TokenModel(
            model_id,
            "transformers",
            wrapped,
            weights.max_model_len,
            weights.weights_bytes,
            generates=weights.generates,
            embeds=not weights.generates,
            constraints=constraints.kinds,
            chats=bool(tokenizer.chat_template),
            default_sampling=weights.default_sampling,
        ),
        runner,
        weights.ends,
        constraints,
        free,
        restore,
        close,
        None if weights.generates else embed_all,
    )
