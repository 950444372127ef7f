"""Server-sent events around generated text.

All of an event but its text is the same for every token of an answer, so its JSON is built once, cut where the text
goes, and joined around each new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_MARK = "\u0001text\u0001"
_MARK_BYTES = _encode(_MARK)

DONE = b"data: [DONE]\n\n"


def event(payload: Any) -> bytes:
    """One event whose data is JSON."""
    return b"data: " + _encode(payload) + b"\n\n"


def named_event(name: str, payload: Any) -> bytes:
    """One event with a name, whose data is JSON."""
    return b"event: " + name.encode() + b"\ndata: " + _encode(payload) + b"\n\n"


class TextEvents:
    """Events that differ in one text."""

    __slots__ = ("_after", "_before", "_between")

    def __init__(self, template: bytes) -> None:
        """
        Args:
            template: the event, with `text_mark` in place of the text.
        """
        self._before, self._after = template.split(_MARK_BYTES)
        self._between = self._after + self._before

    def around(self, texts: Iterable[str]) -> bytes:
        """One event for each text that is not empty."""
        parts = [_encode(text) for text in texts if text]
        if not parts:
            return b""
        return self._before + self._between.join(parts) + self._after


text_mark = _MARK
"""Stands in a template where the text goes."""
