"""The inference engine for a laptop: models of transformers, with continuous batching."""

from headrace.llm.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
