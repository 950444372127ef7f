"""The events of a streamed chat."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.chat_choice import ChatChoice
from headrace.llm.generation.event_format import TextEvents, event, text_mark
from headrace.llm.generation.token_engine import Step, Tokenizer, TokenLogprobs
from headrace.llm.generation.token_logprobs_json import chat_logprobs
from headrace.llm.generation.tool_calls import Delta, ToolCallDelta
from headrace.llm.generation.usage import Usage


class ChatEvents:
    """Formats the events of one request."""

    def __init__(
        self,
        request_id: str,
        created: int,
        model: str,
        choices: int,
        usage: Usage,
        *,
        tokenizer: Tokenizer | None = None,
        usage_in_events: bool = False,
    ) -> None:
        """
        Args:
            usage: counts the tokens of the answer.
            tokenizer: for log probabilities; None: events have none.
            usage_in_events: every event tells the usage so far.
        """
        self._head: dict[str, Any] = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._tokenizer = tokenizer
        self._usage = usage
        self._usage_in_events = usage_in_events
        self._plain = [TextEvents(self._chunk(index, {"content": text_mark})) for index in range(choices)]

    def of(self, choice: ChatChoice, step: Step) -> bytes:
        """All events of a step."""
        before = choice.text.tokens
        texts = choice.texts(step)
        self._usage.completion_tokens += choice.text.tokens - before
        ready = b""
        if not choice.started:
            choice.started = True
            ready = self._chunk(choice.index, {"role": "assistant", "content": ""})
            if choice.content:
                ready += self._chunk(choice.index, {"content": choice.content})
        if choice.parser is None and self._tokenizer is None and not self._usage_in_events:
            ready += self._plain[choice.index].around(texts)
        elif choice.parser is not None:
            ready += self._tool_events(choice, step, choice.deltas(texts), len(texts))
        else:
            ready += self._text_events(choice, step, texts)
        if choice.ended:
            ready += self._chunk(choice.index, {}, choice.finish_reason, choice.text.stop_reason)
        return ready

    def _text_events(self, choice: ChatChoice, step: Step, texts: list[str]) -> bytes:
        events = []
        for position, text in enumerate(texts):
            logprobs = step.logprobs[position : position + 1] if step.logprobs else []
            if text or (logprobs and self._tokenizer is not None):
                events.append(self._chunk(choice.index, {"content": text}, logprobs=logprobs))
        return b"".join(events)

    def _tool_events(self, choice: ChatChoice, step: Step, deltas: list[Delta], tokens: int) -> bytes:
        logprobs = (step.logprobs or [])[:tokens]
        events = []
        if logprobs and self._tokenizer is not None and not deltas:
            deltas = [""]
        for delta in deltas:
            events.append(self._chunk(choice.index, _as_json(delta), logprobs=logprobs))
            logprobs = []
        return b"".join(events)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        stop_reason: str | int | None = None,
        logprobs: list[TokenLogprobs] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if logprobs and self._tokenizer is not None:
            choice["logprobs"] = chat_logprobs(logprobs, self._tokenizer)
        if stop_reason is not None:
            choice["stop_reason"] = stop_reason
        chunk = {**self._head, "choices": [choice]}
        if self._usage_in_events:
            chunk["usage"] = self._usage.as_json()
        return event(chunk)

    def final_usage(self) -> bytes:
        """The last event, without choices."""
        return event({**self._head, "choices": [], "usage": self._usage.as_json()})


def _as_json(delta: Delta) -> dict[str, Any]:
    if not isinstance(delta, ToolCallDelta):
        return {"content": delta}
    call: dict[str, Any] = {"index": delta.index}
    function: dict[str, str] = {"arguments": delta.arguments}
    if delta.name is not None:
        call.update(id=delta.id, type="function")
        function["name"] = delta.name
    return {"tool_calls": [{**call, "function": function}]}
