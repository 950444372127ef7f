"""The server class under the name that it has in `ray.serve.llm.deployment`."""

from headrace.llm.server import LLMServer

__all__ = ["LLMServer"]
