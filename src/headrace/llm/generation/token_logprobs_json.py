"""Log probabilities in the two shapes that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.llm.generation.token_engine import Tokenizer, TokenLogprobs

_LOWEST = -9999.0  # JSON has no infinity; this is OpenAI's and vLLM's stand-in.


def chat_logprobs(tokens: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> dict[str, Any]:
    """As chats have them: a list of tokens, each with its alternatives."""
    return {
        "content": [
            {
                **_one(token.token_id, token.logprob, tokenizer),
                "top_logprobs": [_one(token_id, logprob, tokenizer) for token_id, logprob in token.top],
            }
            for token in tokens
        ]
    }


def _one(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    text, raw = tokenizer.token(token_id)
    return {"token": text, "logprob": max(logprob, _LOWEST), "bytes": list(raw)}


class CompletionLogprobs:
    """As completions have them: parallel lists, with the offset of each token in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def of(self, tokens: Sequence[TokenLogprobs | None], ids: Sequence[int], *, top: bool) -> dict[str, Any]:
        """
        Args:
            tokens: one for each of `ids`; None where there is none (the first token of a prompt).
            top: with the likeliest tokens of each position.
        """
        names = [self._tokenizer.token(token_id)[0] for token_id in ids]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        return {
            "text_offset": offsets,
            "token_logprobs": [None if token is None else max(token.logprob, _LOWEST) for token in tokens],
            "tokens": names,
            "top_logprobs": [
                None if token is None else self._alternatives(token, name)
                for token, name in zip(tokens, names, strict=True)
            ]
            if top
            else None,
        }

    def _alternatives(self, token: TokenLogprobs, name: str) -> dict[str, float]:
        found = {self._tokenizer.token(token_id)[0]: max(logprob, _LOWEST) for token_id, logprob in token.top}
        # The token that was chosen is always among them.
        found.setdefault(name, max(token.logprob, _LOWEST))
        return found
