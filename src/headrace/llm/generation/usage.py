"""How many tokens a request used."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.token_engine import Step


class Usage:
    """
    Attributes:
        prompt_tokens: of the prompt, or of all prompts.
        completion_tokens: of all choices so far.
        cached_tokens: tokens of the prompt that the KV cache had already.
        failed: the engine gave up after the answer had begun.
    """

    __slots__ = ("cached_tokens", "completion_tokens", "failed", "prompt_tokens")

    def __init__(self, prompt_tokens: int, completion_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = 0
        self.failed = False

    def add(self, step: Step) -> None:
        """Note what a step tells of the prompt."""
        if step.cached_tokens > self.cached_tokens:
            self.cached_tokens = step.cached_tokens

    def as_json(self) -> dict[str, Any]:
        """As OpenAI has it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
