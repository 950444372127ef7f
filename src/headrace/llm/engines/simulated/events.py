"""Answers as JSON: server-sent events, or one body.

An event is the same bytes around each token's text, so that they are encoded once per answer and not per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_encode = msgspec.json.encode
_DONE = b"data: [DONE]\n\n"
_MARK = "\0"


class Events:
    """
    Args:
        answer_id: of the answer.
        model: as the client named it.
        created: Unix time, seconds.
    """

    chunk_object = ""
    whole_object = ""

    def __init__(self, answer_id: str, model: str, created: int) -> None:
        self._head: dict[str, Any] = {"id": answer_id, "object": self.chunk_object, "created": created, "model": model}
        self._around: dict[int, tuple[str, str]] = {}

    def begin(self, index: int) -> bytes:
        """What comes before the first token of a choice."""
        return b""

    def tokens(self, index: int, texts: Sequence[str]) -> bytes:
        """One event per token. Their texts have nothing that JSON would escape."""
        around = self._around.get(index)
        if around is None:
            before, _, after = self._event(index, _MARK, None).decode().partition("\\u0000")
            around = self._around[index] = before, after
        before, after = around
        return f"{before}{(after + before).join(texts)}{after}".encode()

    def end(self, index: int, reason: str) -> bytes:
        """Says why a choice ends."""
        return self._event(index, None, reason)

    def done(self, usage: tuple[int, int] | None) -> bytes:
        """The end of the stream; `usage`: tokens of prompt and answers, where the client wants to know."""
        if usage is None:
            return _DONE
        return b"data: " + _encode({**self._head, "choices": [], "usage": usage_of(*usage)}) + b"\n\n" + _DONE

    def whole(self, texts: Sequence[str], reasons: Sequence[str], prompt_tokens: int, completion_tokens: int) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [
            {"index": index, **self.choice(text), "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        usage = usage_of(prompt_tokens, completion_tokens)
        return _encode({**self._head, "object": self.whole_object, "choices": choices, "usage": usage})

    def _event(self, index: int, text: str | None, reason: str | None) -> bytes:
        choice = {"index": index, **self.delta(text), "logprobs": None, "finish_reason": reason}
        return b"data: " + _encode({**self._head, "choices": [choice]}) + b"\n\n"

    def delta(self, text: str | None) -> dict[str, Any]:
        """The part of an event with a token's text; None for no token."""
        raise TypeError("a kind of answer says where its text goes")

    def choice(self, text: str) -> dict[str, Any]:
        """The part of a body with a choice's text."""
        raise TypeError("a kind of answer says where its text goes")


class ChatEvents(Events):
    """Answers of `/v1/chat/completions`."""

    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def begin(self, index: int) -> bytes:
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return b"data: " + _encode({**self._head, "choices": [choice]}) + b"\n\n"

    def delta(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}


class CompletionEvents(Events):
    """Answers of `/v1/completions`."""

    chunk_object = "text_completion"
    whole_object = "text_completion"

    def delta(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """`usage`, as OpenAI counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
