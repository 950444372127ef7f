"""The inference engine for GGUF files: llama.cpp, with continuous batching."""

from headrace.llm.engines.llamacpp.engine import LlamaCppEngine

__all__ = ["LlamaCppEngine"]
