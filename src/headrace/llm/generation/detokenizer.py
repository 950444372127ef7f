"""From tokens to text as they come, for any tokenizer that can decode a list of ids.

A token may hold part of a character (byte-level tokenizers, byte fallback), and its text may depend on the token
before it (sentencepiece drops the space at the start of a text). So a window of the last tokens is decoded each time,
and what is new of its text is passed on. Replacement characters at its end may still become a character with the next
token and are held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# Tokens of the prompt before the answer, or of the answer before the next token, that its text may depend on.
_CONTEXT = 6
_LONGEST_WINDOW = 24


class WindowDetokenizer:
    """A `Detokenizer` over a function that decodes ids."""

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int] = ()) -> None:
        """
        Args:
            decode: the text of ids; undecodable bytes as replacement characters.
            prompt: what the answer follows; its last tokens are context, not output.
        """
        self._decode = decode
        self._window = list(prompt[-_CONTEXT:])
        self._passed_on = len(decode(self._window).rstrip(_REPLACEMENT)) if self._window else 0

    def push(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token completes."""
        return [self._push(token_id) for token_id in token_ids]

    def _push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        certain = len(text.rstrip(_REPLACEMENT)) if text.endswith(_REPLACEMENT) else len(text)
        new = text[self._passed_on : certain]
        self._passed_on = max(self._passed_on, certain)
        if len(self._window) > _LONGEST_WINDOW and certain == len(text):
            self._shorten(text)
        return new

    def _shorten(self, text: str) -> None:
        """Forget the oldest tokens, where that changes nothing about the text of the others."""
        window = self._window[-_CONTEXT:]
        tail = self._decode(window)
        # A window that begins within a character would read differently with every token that follows.
        if tail and _REPLACEMENT not in tail and text.endswith(tail):
            self._window = window
            self._passed_on = len(tail)

    def flush(self) -> str:
        """The text of what never became a whole character."""
        text = self._decode(self._window) if self._window else ""
        rest = text[self._passed_on :]
        self._passed_on = max(self._passed_on, len(text))
        return rest


class BytesDetokenizer:
    """A `Detokenizer` for tokenizers whose tokens are bytes, each by itself."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        """
        Args:
            bytes_of: what a token stands for; nothing for a special one.
        """
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token completes."""
        return [self._decoder.decode(self._bytes_of(token_id)) for token_id in token_ids]

    def flush(self) -> str:
        """The text of what never became a whole character."""
        return self._decoder.decode(b"", final=True)
