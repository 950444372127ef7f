"""Requests and answers as pydantic models, under the names that they have in `ray.serve.llm.openai_api_models`.

They are vLLM's, and there where vLLM is installed. A dict with the same fields does as well everywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ChatCompletionRequest": "openai.chat_completion.protocol",
    "ChatCompletionResponse": "openai.chat_completion.protocol",
    "ChatCompletionStreamResponse": "openai.chat_completion.protocol",
    "CompletionRequest": "openai.completion.protocol",
    "CompletionResponse": "openai.completion.protocol",
    "CompletionStreamResponse": "openai.completion.protocol",
    "EmbeddingResponse": "pooling.embed.protocol",
    "ErrorResponse": "serve.engine.protocol",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'headrace.llm.openai_api_models' has no attribute {name!r}")
    try:
        return getattr(import_module(f"vllm.entrypoints.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ImportError(
            f"{name} is vLLM's, which is not installed (pip install 'headrace[vllm]'); a dict with its fields does too"
        ) from None
