"""vLLM: its engine, and its own OpenAI layer, in the replica."""

from __future__ import annotations

from headrace.llm.engines.vllm.engine import VLLMEngine

__all__ = ["VLLMEngine"]
