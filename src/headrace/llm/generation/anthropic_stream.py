"""An answer of `/v1/messages` while it grows, and the events that tell of it."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.llm.generation.event_format import TextEvents, named_event, text_mark

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageStream:
    """
    Attributes:
        message: the message so far.
    """

    def __init__(self, message_id: str, model: str) -> None:
        self.message: dict[str, Any] = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        self._open: dict[str, Any] | None = None
        self._parts: list[str] = []
        self._text_events: TextEvents | None = None

    @property
    def _index(self) -> int:
        return len(self.message["content"])

    def _event(self, kind: str, **payload: Any) -> bytes:
        return named_event(kind, {"type": kind, **payload})

    def begin(self, usage: dict[str, Any] | None) -> bytes:
        """The first event."""
        if usage is not None:
            self.message["usage"] = _usage(usage)
        return self._event("message_start", message=self.message)

    def delta(self, delta: dict[str, Any]) -> bytes:
        """The events of what a chunk of the chat adds."""
        ready = b""
        text = delta.get("content")
        if text:
            if self._open is None or self._open["type"] != "text":
                ready += self._close() + self._begin_block({"type": "text", "text": ""})
                mark = {"type": "text_delta", "text": text_mark}
                self._text_events = TextEvents(self._event("content_block_delta", index=self._index, delta=mark))
            assert self._text_events is not None
            self._parts.append(text)
            ready += self._text_events.around((text,))
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if function.get("name"):
                block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
                ready += self._close() + self._begin_block(block)
            if function.get("arguments"):
                self._parts.append(function["arguments"])
                part = {"type": "input_json_delta", "partial_json": function["arguments"]}
                ready += self._event("content_block_delta", index=self._index, delta=part)
        return ready

    def _begin_block(self, block: dict[str, Any]) -> bytes:
        self._open = block
        return self._event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        ready = self._event("content_block_stop", index=self._index)
        block, text = dict(self._open), "".join(self._parts)
        if block["type"] == "text":
            block["text"] = text
        else:
            try:
                block["input"] = msgspec.json.decode(text or "{}")
            except msgspec.DecodeError:
                # Cut off by `max_tokens`; the events have told it as it was.
                block["input"] = {}
        self.message["content"].append(block)
        self._open, self._parts = None, []
        return ready

    def end(self, choice: dict[str, Any], usage: dict[str, Any] | None) -> bytes:
        """The last events.

        Args:
            choice: the chat's, with `finish_reason` and perhaps `stop_reason`.
        """
        ready = self._close()
        message = self.message
        message["stop_reason"] = _STOP_REASONS.get(choice["finish_reason"], "end_turn")
        if isinstance(choice.get("stop_reason"), str):
            message["stop_reason"], message["stop_sequence"] = "stop_sequence", choice["stop_reason"]
        if usage is not None:
            message["usage"] = _usage(usage)
        end = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
        ready += self._event("message_delta", delta=end, usage=message["usage"])
        return ready + self._event("message_stop")


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    """A chat's usage, as Anthropic has it."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"] - cached,
        "cache_read_input_tokens": cached,
        "output_tokens": usage["completion_tokens"],
    }
