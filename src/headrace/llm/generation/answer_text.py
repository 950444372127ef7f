"""The text of one answer, from the steps of an engine: detokenized, and cut where a stop string says."""

from __future__ import annotations

from headrace.llm.generation.stop_strings import StopStringScanner
from headrace.llm.generation.token_engine import Detokenizer, FinishReason, Step


class AnswerText:
    """
    Attributes:
        tokens: so many were generated.
        finish_reason: why it has ended; None: it has not.
        stop_reason: the stop string or the token id of the client's that ended it; None otherwise.
    """

    __slots__ = ("_detokenizer", "_min_tokens", "_scanner", "finish_reason", "stop_reason", "tokens")

    def __init__(self, detokenizer: Detokenizer, scanner: StopStringScanner | None, min_tokens: int = 0) -> None:
        """
        Args:
            scanner: finds the client's stop strings; None: there are none.
            min_tokens: no stop string counts before so many tokens.
        """
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._min_tokens = min_tokens

    def push(self, step: Step, stop_token_ids: frozenset[int] = frozenset()) -> list[str]:
        """The texts of a step, one for each token that is part of the answer; "" where a token adds none (yet)."""
        ids = step.token_ids
        if step.ended_by_token:
            texts = self._detokenizer.push(ids[:-1])
            texts.append("")
            if ids[-1] in stop_token_ids:
                self.stop_reason = ids[-1]
        else:
            texts = self._detokenizer.push(ids)
        if self._scanner is not None:
            texts = self._scanned(texts)
        self.tokens += len(texts)
        if step.finish_reason is not None and self.finish_reason is None:
            self._end(texts, step.finish_reason)
        return texts

    def _scanned(self, texts: list[str]) -> list[str]:
        scanner = self._scanner
        assert scanner is not None
        for index, text in enumerate(texts):
            if self.tokens + index + 1 < self._min_tokens:
                continue
            texts[index] = scanner.push(text)
            if scanner.matched is not None:
                self.finish_reason = "stop"
                self.stop_reason = scanner.matched
                return texts[: index + 1]
        return texts

    def _end(self, texts: list[str], reason: FinishReason) -> None:
        tail = self._detokenizer.flush()
        if self._scanner is not None:
            tail = self._scanner.push(tail)
            if self._scanner.matched is not None:
                reason = "stop"
                self.stop_reason = self._scanner.matched
            tail += self._scanner.flush()
        if texts:
            texts[-1] += tail
        elif tail:
            texts.append(tail)
        self.finish_reason = reason
