"""One choice of a completion, while it is generated."""

from __future__ import annotations

from typing import Any

from headrace.llm.generation.answer_text import AnswerText
from headrace.llm.generation.request_fields import CompletionRequest
from headrace.llm.generation.stop_strings import StopStringScanner
from headrace.llm.generation.token_engine import Step, Tokenizer, TokenLogprobs
from headrace.llm.generation.token_logprobs_json import CompletionLogprobs


class CompletionChoice:
    """
    Attributes:
        index: of the choice.
        text: its text, without an echo of the prompt.
        with_logprobs: its tokens are told with their log probabilities.
    """

    def __init__(
        self,
        index: int,
        prompt: list[int],
        request: CompletionRequest,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        echo: str | None,
    ) -> None:
        """
        Args:
            prompt: its tokens.
            stops: the client's stop strings.
            echo: the prompt's text, where the answer repeats it.
        """
        scanner = StopStringScanner(stops, include=request.include_stop_str_in_output) if stops else None
        detokenizer = tokenizer.detokenizer(prompt, skip_special_tokens=request.skip_special_tokens)
        self.index = index
        self.text = AnswerText(detokenizer, scanner, request.min_tokens)
        self.with_logprobs = request.logprobs is not None
        self._prompt = prompt
        self._echo = echo
        self._prompt_alone = echo is not None and request.max_tokens == 0
        self._top = bool(request.logprobs)
        self._stop_token_ids = frozenset(request.stop_token_ids or ())
        self._logprobs = CompletionLogprobs(tokenizer)
        self._collected_ids: list[int] = []
        self._collected: list[TokenLogprobs | None] = []
        self._parts: list[str] = []

    @property
    def ended(self) -> bool:
        return self.text.finish_reason is not None

    @property
    def answer_tokens(self) -> int:
        return 0 if self._prompt_alone else self.text.tokens

    def texts(self, step: Step) -> tuple[list[str], list[int], list[TokenLogprobs | None]]:
        """What a step adds: texts, and with log probabilities the tokens of those texts (first those of an echo)."""
        first = self._echo is not None
        texts = self.text.push(step, self._stop_token_ids)
        ids: list[int] = []
        logprobs: list[TokenLogprobs | None] = []
        if self.with_logprobs:
            ids = list(step.token_ids[: len(texts)])
            logprobs = list((step.logprobs or [])[: len(ids)])
        if self._prompt_alone:
            texts, ids, logprobs = [], [], []
        if first:
            texts.insert(0, self._echo or "")
            self._echo = None
            if self.with_logprobs and step.prompt_logprobs is not None:
                ids = self._prompt + ids
                logprobs = [None, *step.prompt_logprobs, *logprobs]
        return texts, ids, logprobs

    def logprobs_json(self, ids: list[int], logprobs: list[TokenLogprobs | None]) -> dict[str, Any]:
        """As OpenAI has them."""
        return self._logprobs.of(logprobs, ids, top=self._top)

    def collect(self, step: Step) -> None:
        """Add a step to the whole."""
        texts, ids, logprobs = self.texts(step)
        self._parts += texts
        self._collected_ids += ids
        self._collected += logprobs

    def as_json(self) -> dict[str, Any]:
        """The whole choice."""
        return {
            "index": self.index,
            "text": "".join(self._parts),
            "logprobs": self.logprobs_json(self._collected_ids, self._collected) if self.with_logprobs else None,
            "finish_reason": "length" if self._prompt_alone else self.text.finish_reason,
            "stop_reason": self.text.stop_reason,
        }
