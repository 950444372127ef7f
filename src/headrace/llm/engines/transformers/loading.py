"""Loading a model, its tokenizer and its settings with transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from headrace.exceptions import ConfigError
from headrace.llm.engines.protocol import LoadingProgress
from headrace.llm.engines.transformers.settings import TransformersSettings

_GENERATES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """
    Attributes:
        model: of transformers, on its device, in evaluation mode.
        tokenizer: of transformers.
        max_model_len: tokens of prompt and answer together.
        weights_bytes: memory of parameters and buffers.
        generates: it is a causal model; False: it embeds.
        ends: tokens with which the model ends an answer.
        default_sampling: what the model's makers recommend.
    """

    model: Any
    tokenizer: Any
    max_model_len: int
    weights_bytes: int
    generates: bool
    ends: frozenset[int]
    default_sampling: dict[str, float]


def load(source: str, settings: TransformersSettings, report: Callable[[LoadingProgress], None]) -> LoadedWeights:
    """Load; blocks for as long as it takes.

    Raises:
        ConfigError: there is no such model, or an argument does not fit it.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = _device(settings.device)
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    report(LoadingProgress("loading configuration"))
    try:
        config = AutoConfig.from_pretrained(source, **common)
        tokenizer = AutoTokenizer.from_pretrained(settings.tokenizer or source, **common)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_source: transformers cannot load {source!r}: {error}") from error
    # Lengths are checked, and refused, where requests come in; the tokenizer would only warn of them.
    tokenizer.model_max_length = sys.maxsize
    text_config = config.get_text_config()
    max_model_len = _max_model_len(text_config, settings.max_model_len)
    generates = _generates(config, settings.task)
    report(LoadingProgress("loading weights"))
    arguments: dict[str, Any] = {**common, "dtype": _dtype(settings.dtype, text_config, device)}
    if settings.attn_implementation is not None:
        arguments["attn_implementation"] = settings.attn_implementation
    if settings.device_map is not None:
        arguments["device_map"] = settings.device_map
    if settings.quantization_config is not None:
        arguments["quantization_config"] = settings.quantization_config
    arguments.update(settings.model_kwargs)
    loader = AutoModelForCausalLM if generates else AutoModel
    try:
        model = loader.from_pretrained(source, **arguments)
        if settings.device_map is None and settings.quantization_config is None:
            model = model.to(device)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"engine_kwargs: transformers cannot load {source!r} so: {error}") from error
    model.eval()
    weights_bytes = model.get_memory_footprint()
    report(LoadingProgress("loading weights", 1.0, weights_bytes))
    generation = getattr(model, "generation_config", None)
    use_defaults = settings.generation_config == "auto" and generation is not None
    return LoadedWeights(
        model,
        tokenizer,
        max_model_len,
        weights_bytes,
        generates,
        _ends(generation, tokenizer),
        _default_sampling(generation) if use_defaults else {},
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"engine_kwargs.device: {name!r} is no device of PyTorch: {error}") from None


def _dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    saved = getattr(config, "dtype", None) or torch.float32
    if isinstance(saved, str):
        saved = getattr(torch, saved)
    # Half precision is emulated on CPUs, bfloat16 on all but recent ones.
    if device.type == "cpu" and (saved == torch.float16 or not torch.backends.mkldnn.is_available()):
        return torch.float32
    dtype: torch.dtype = saved
    return dtype


def _max_model_len(config: Any, asked: int | None) -> int:
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
    made_for = next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)
    if asked is None:
        return made_for or 4096
    if made_for is not None and asked > made_for:
        raise ConfigError(f"engine_kwargs.max_model_len: this model was made for {made_for} tokens, not for {asked}")
    return asked


def _generates(config: Any, task: str) -> bool:
    if task != "auto":
        return task == "generate"
    architectures = getattr(config, "architectures", None) or []
    return not architectures or any(name.endswith(_GENERATES) for name in architectures)


def _ends(generation: Any, tokenizer: Any) -> frozenset[int]:
    ends: set[int] = set()
    given = getattr(generation, "eos_token_id", None)
    if given is not None:
        ends.update([given] if isinstance(given, int) else given)
    if getattr(tokenizer, "eos_token_id", None) is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(end for end in ends if end >= 0)


def _default_sampling(generation: Any) -> dict[str, float]:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    given = generation.to_diff_dict() if hasattr(generation, "to_diff_dict") else {}
    found = {name: float(given[name]) for name in names if isinstance(given.get(name), int | float)}
    if given.get("do_sample") is False and "temperature" not in given:
        found.pop("top_p", None)
    return found
