"""Loading a GGUF file with llama.cpp."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any

import llama_cpp

from headrace.exceptions import ConfigError
from headrace.llm.engines.llamacpp.batch_runner import LlamaCppRunner
from headrace.llm.engines.llamacpp.settings import LlamaCppSettings
from headrace.llm.engines.llamacpp.tokenizer import LlamaCppTokenizer, template_of
from headrace.llm.engines.protocol import LoadingProgress
from headrace.llm.generation.batching.constraints import Constraints
from headrace.llm.generation.batching.engine import LoadedModel, Report
from headrace.llm.generation.token_engine import TokenModel

logger = logging.getLogger(__name__)

_LONGEST_UNASKED = 8192
_WARNING = 3


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp tells hundreds of lines about every model on the standard output of errors."""
    log = logger.warning if level == _WARNING else logger.debug
    log(text.decode("utf-8", "replace").rstrip())


def load_model(model_id: str, source: str, settings: LlamaCppSettings, report: Report) -> LoadedModel:
    """Load; blocks for as long as it takes.

    Raises:
        ConfigError: there is no such file, it is no GGUF, or an argument does not fit it.
    """
    if not Path(source).is_file():
        raise ConfigError(f"model_source: there is no GGUF file {source!r}")
    llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = _load_weights(source, settings, report)
    weights_bytes = llama_cpp.llama_model_size(model)
    report(LoadingProgress("loading weights", 1.0, weights_bytes))
    try:
        max_model_len = _max_model_len(llama_cpp.llama_model_n_ctx_train(model), settings.max_model_len)
        context = _context(model, max_model_len, settings)
    except ConfigError:
        llama_cpp.llama_model_free(model)
        raise
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    tokenizer = LlamaCppTokenizer(vocabulary, template_of(settings.chat_template, model))
    size = tokenizer.vocabulary_size
    ends = frozenset(token_id for token_id in range(size) if llama_cpp.llama_vocab_is_eog(vocabulary, token_id))
    runner = LlamaCppRunner(context, size, settings.max_num_seqs, settings.n_batch)

    def read_vocabulary() -> Any:
        import llguidance.llamacpp

        return llguidance.llamacpp.lltokenizer_from_vocab(vocabulary, eos_token=sorted(ends))

    constraints = Constraints(read_vocabulary, bool(ends))

    def nothing() -> None:
        """The cache is part of llama.cpp's context, and weights are in a file that the system reads as needed."""

    def close() -> None:
        runner.close()
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)

    served = TokenModel(
        model_id,
        "llamacpp",
        tokenizer,
        max_model_len,
        weights_bytes,
        constraints=constraints.kinds,
        chats=tokenizer.chat_template is not None,
    )
    return LoadedModel(served, runner, ends, constraints, nothing, nothing, close)


def _load_weights(source: str, settings: LlamaCppSettings, report: Report) -> Any:
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0x7FFFFFFF if settings.n_gpu_layers < 0 else settings.n_gpu_layers

    @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]
    def progress(fraction: float, user_data: Any) -> bool:
        report(LoadingProgress("loading weights", fraction))
        return True

    parameters.progress_callback = progress
    model = llama_cpp.llama_model_load_from_file(source.encode(), parameters)
    if not model:
        raise ConfigError(
            f"model_source: llama.cpp cannot load {source!r}; is it a GGUF file of a model that it knows?"
        )
    return model


def _max_model_len(made_for: int, asked: int | None) -> int:
    if asked is None:
        return min(made_for, _LONGEST_UNASKED)
    if asked > made_for:
        raise ConfigError(f"engine_kwargs.max_model_len: this model was made for {made_for} tokens, not for {asked}")
    return asked


def _context(model: Any, max_model_len: int, settings: LlamaCppSettings) -> Any:
    parameters = llama_cpp.llama_context_default_params()
    # Each sequence has its own part of the cache.
    parameters.n_ctx = max_model_len * settings.max_num_seqs
    parameters.n_seq_max = settings.max_num_seqs
    parameters.kv_unified = False
    parameters.n_batch = max(settings.n_batch, settings.max_num_seqs)
    if settings.n_threads is not None:
        parameters.n_threads = parameters.n_threads_batch = settings.n_threads
    context = llama_cpp.llama_init_from_model(model, parameters)
    if not context:
        raise ConfigError(
            f"engine_kwargs: llama.cpp has no memory for {settings.max_num_seqs} requests of {max_model_len} tokens; "
            "lower max_num_seqs or max_model_len"
        )
    return context
