"""One choice of a chat's answer, while it is generated."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.answer_text import AnswerText
from headrace.llm.generation.token_engine import Step, TokenLogprobs
from headrace.llm.generation.tool_calls import Delta, ToolParser


class ChatChoice:
    """
    Attributes:
        index: of the choice.
        text: its text, before tool calls are taken out.
        stop_token_ids: the client's.
        content: its content so far, where it is collected.
        calls: its tool calls so far, where they are collected.
        logprobs: of its tokens so far, where they are collected.
        started: something of it has been sent.
    """

    def __init__(
        self, index: int, text: AnswerText, stop_token_ids: frozenset[int], parser: ToolParser | None, echo: str = ""
    ) -> None:
        """
        Args:
            parser: takes tool calls out of the text; None: there are none.
            echo: what the content begins with.
        """
        self.index = index
        self.text = text
        self.stop_token_ids = stop_token_ids
        self.parser = parser
        self.content = echo
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[TokenLogprobs] = []
        self.started = False

    @property
    def ended(self) -> bool:
        return self.text.finish_reason is not None

    @property
    def finish_reason(self) -> str | None:
        if self.parser is not None and self.parser.calls and self.text.finish_reason == "stop":
            return "tool_calls"
        return self.text.finish_reason

    def texts(self, step: Step) -> list[str]:
        """The texts of a step's tokens."""
        return self.text.push(step, self.stop_token_ids)

    def deltas(self, texts: list[str]) -> list[Delta]:
        """Content and parts of tool calls in texts."""
        assert self.parser is not None
        deltas = self.parser.push("".join(texts))
        if self.ended:
            deltas += self.parser.finish()
        return deltas

    def collect(self, step: Step) -> None:
        """Add a step to the whole."""
        texts = self.texts(step)
        if step.logprobs:
            self.logprobs += step.logprobs[: len(texts)]
        if self.parser is None:
            self.content += "".join(texts)
            return
        for delta in self.deltas(texts):
            if isinstance(delta, str):
                self.content += delta
            elif delta.name is not None:
                function = {"name": delta.name, "arguments": delta.arguments}
                self.calls.append({"id": delta.id, "type": "function", "function": function})
            else:
                self.calls[delta.index]["function"]["arguments"] += delta.arguments
