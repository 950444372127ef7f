"""Answers that match a schema, an expression or a grammar, with llguidance."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from headrace.llm.generation.token_engine import ConstraintError, ConstraintKind, OutputConstraint

ALL_KINDS: frozenset[ConstraintKind] = frozenset({"json_schema", "regex", "lark"})


class Constraints:
    """Makes matchers, which tell the tokens that may follow."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, ends: frozenset[int]) -> None:
        """
        Args:
            tokenizer: of transformers.
            vocabulary_size: of the model.
            ends: tokens that end an answer.
        """
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._ends = sorted(ends)
        self._prepared: Any = None

    def kinds(self) -> frozenset[ConstraintKind]:
        """What can be kept to: everything, with llguidance and a fast tokenizer that knows an end; else nothing."""
        if find_spec("llguidance") is None or not getattr(self._tokenizer, "is_fast", False) or not self._ends:
            return frozenset()
        return ALL_KINDS

    def prepare(self) -> None:
        """Read the vocabulary; takes up to a second, on the thread that calls it."""
        if self._prepared is None:
            import llguidance.hf

            size = max(self._vocabulary_size, len(self._tokenizer))
            self._prepared = llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._ends)

    def matcher(self, constraint: OutputConstraint) -> Any:
        """A matcher at the beginning of an answer.

        Raises:
            ConstraintError: the constraint is wrong, or uses what is not supported.
        """
        from llguidance import LLMatcher

        self.prepare()
        try:
            if constraint.kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(constraint.source)
            elif constraint.kind == "regex":
                grammar = LLMatcher.grammar_from_regex(constraint.source)
            else:
                grammar = LLMatcher.grammar_from_lark(constraint.source)
        except ValueError as error:
            raise ConstraintError(str(error)) from None
        matcher = LLMatcher(self._prepared, grammar, log_level=0)
        if matcher.is_error():
            raise ConstraintError(matcher.get_error().strip())
        return matcher
