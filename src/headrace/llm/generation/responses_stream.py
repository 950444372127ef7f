"""A response of `/v1/responses` while it grows, and the events that tell of it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from headrace.llm.generation.event_format import named_event


class ResponseStream:
    """
    Attributes:
        response: the response so far.
    """

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self._sequence = 0
        self._open: dict[str, Any] | None = None
        self._text: list[str] = []

    def _event(self, kind: str, **payload: Any) -> bytes:
        event = named_event(kind, {"type": kind, "sequence_number": self._sequence, **payload})
        self._sequence += 1
        return event

    def begin(self) -> bytes:
        """The first events."""
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def delta(self, delta: dict[str, Any]) -> bytes:
        """The events of what a chunk of the chat adds."""
        ready = b""
        text = delta.get("content")
        if text:
            ready += self._add_text(text)
        for call in delta.get("tool_calls") or ():
            ready += self._add_call(call)
        return ready

    @property
    def _output_index(self) -> int:
        return len(self.response["output"])

    def _add_text(self, text: str) -> bytes:
        ready = b""
        if self._open is None or self._open["type"] != "message":
            ready = self._close()
            self._open = {
                "type": "message",
                "id": f"msg_{uuid4().hex}",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            ready += self._event("response.output_item.added", output_index=self._output_index, item=self._open)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            ready += self._event("response.content_part.added", **self._place(), content_index=0, part=part)
        self._text.append(text)
        return ready + self._event(
            "response.output_text.delta", **self._place(), content_index=0, delta=text, logprobs=[]
        )

    def _add_call(self, call: dict[str, Any]) -> bytes:
        ready = b""
        function = call["function"]
        if function.get("name"):
            ready = self._close()
            self._open = {
                "type": "function_call",
                "id": f"fc_{uuid4().hex}",
                "call_id": call["id"],
                "name": function["name"],
                "arguments": "",
                "status": "in_progress",
            }
            ready += self._event("response.output_item.added", output_index=self._output_index, item=self._open)
        arguments = function.get("arguments")
        if arguments and self._open is not None:
            self._text.append(arguments)
            ready += self._event("response.function_call_arguments.delta", **self._place(), delta=arguments)
        return ready

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        return {"item_id": self._open["id"], "output_index": self._output_index}

    def _close(self, status: str = "completed") -> bytes:
        """End the item that is open."""
        if self._open is None:
            return b""
        item, text = self._open, "".join(self._text)
        place = self._place()
        if item["type"] == "message":
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            ready = self._event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            ready += self._event("response.content_part.done", **place, content_index=0, part=part)
            item = {**item, "content": [part]}
        else:
            ready = self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=text)
            item = {**item, "arguments": text}
        item["status"] = status
        ready += self._event("response.output_item.done", output_index=self._output_index, item=item)
        self.response["output"].append(item)
        self._open, self._text = None, []
        return ready

    def end(self, finish_reason: str, usage: dict[str, Any] | None) -> bytes:
        """The last events."""
        cut_off = finish_reason == "length"
        ready = self._close("incomplete" if cut_off else "completed")
        self.response["status"] = "incomplete" if cut_off else "completed"
        if cut_off:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        if usage is not None:
            self.response["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {
                    "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                },
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            }
        return ready + self._event("response.incomplete" if cut_off else "response.completed", response=self.response)

    def fail(self, message: str) -> bytes:
        """The last events, where the engine gave up."""
        ready = self._close("incomplete")
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error", "message": message}
        return ready + self._event("response.failed", response=self.response)
