"""The events of a streamed completion."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.completion_choice import CompletionChoice
from headrace.llm.generation.event_format import TextEvents, event, text_mark
from headrace.llm.generation.token_engine import Step
from headrace.llm.generation.usage import Usage


class CompletionEvents:
    """Formats the events of one request."""

    def __init__(self, head: dict[str, Any], choices: int, usage: Usage, *, usage_in_events: bool) -> None:
        """
        Args:
            head: what all events have in common.
            usage: counts the tokens of the answer.
            usage_in_events: every event tells the usage so far.
        """
        self._head = head
        self._usage = usage
        self._usage_in_events = usage_in_events
        self._plain = [TextEvents(self._chunk(index, text_mark)) for index in range(choices)]

    def of(self, choice: CompletionChoice, step: Step) -> bytes:
        """All events of a step."""
        before = choice.answer_tokens
        texts, ids, logprobs = choice.texts(step)
        self._usage.completion_tokens += choice.answer_tokens - before
        if choice.with_logprobs:
            found = choice.logprobs_json(ids, logprobs) if ids else None
            ready = self._chunk(choice.index, "".join(texts), logprobs=found) if found or any(texts) else b""
        elif self._usage_in_events:
            ready = b"".join(self._chunk(choice.index, text) for text in texts if text)
        else:
            ready = self._plain[choice.index].around(texts)
        if choice.ended:
            ready += self._chunk(choice.index, "", choice.text.finish_reason, choice.text.stop_reason)
        return ready

    def _chunk(
        self,
        index: int,
        text: str,
        finish_reason: str | None = None,
        stop_reason: str | int | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        if stop_reason is not None:
            choice["stop_reason"] = stop_reason
        chunk: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._usage_in_events:
            chunk["usage"] = self._usage.as_json()
        return event(chunk)

    def final_usage(self) -> bytes:
        """The last event, without choices."""
        return event({**self._head, "choices": [], "usage": self._usage.as_json()})
