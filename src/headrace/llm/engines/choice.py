"""Which engine runs a model, where nobody has said."""

from __future__ import annotations

from importlib.util import find_spec

from headrace.exceptions import ConfigError
from headrace.llm.engines import ENGINES

_IN_ORDER = ("vllm", "transformers")


def best_engine(model_source: str) -> str:
    """llama.cpp for GGUF files; for others vLLM if it is installed, else transformers.

    Args:
        model_source: a Hugging Face id, a folder or a file.

    Raises:
        ConfigError: none that runs this model is installed; names the extras that install one.
    """
    wanted = ("llamacpp",) if model_source.lower().endswith(".gguf") else _IN_ORDER
    for name in wanted:
        requires = ENGINES[name].requires
        if requires is None or find_spec(requires) is not None:
            return name
    extras = " or ".join(f"pip install 'headrace[{ENGINES[name].extra}]'" for name in wanted)
    raise ConfigError(f"no inference engine that runs '{model_source}' is installed: {extras}")
