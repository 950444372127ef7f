"""Answers that match a schema, an expression or a grammar, with llguidance."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from headrace.llm.generation.token_engine import ConstraintError, ConstraintKind, OutputConstraint

_ALL_KINDS: frozenset[ConstraintKind] = frozenset({"json_schema", "regex", "lark"})

_COMPILED_KEPT = 32
# Small models like to go on with spaces where any number of them is allowed.
_JSON: dict[str, Any] = {"whitespace_pattern": r"[ \n\t]{0,24}"}


class Constraints:
    """Makes matchers, which tell the tokens that may follow.

    Attributes:
        kinds: what can be kept to; nothing without llguidance.
    """

    def __init__(self, read_vocabulary: Callable[[], Any], possible: bool = True) -> None:
        """
        Args:
            read_vocabulary: makes llguidance's tokenizer for the model; may take a second.
            possible: the model's tokenizer can be read.
        """
        self.kinds = _ALL_KINDS if possible and find_spec("llguidance") is not None else frozenset()
        self._read_vocabulary = read_vocabulary
        self._tokenizer: Any = None
        self._compiled: OrderedDict[OutputConstraint, Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, constraint: OutputConstraint) -> Any:
        """A matcher at the beginning of an answer. Called on threads, as it may take a while.

        Raises:
            ConstraintError: the constraint is wrong, or uses what is not supported.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._read_vocabulary()
            compiled = self._compiled.get(constraint)
        if compiled is None:
            compiled = self._compile(constraint)
        with self._lock:
            # Clients ask with the same schema again and again.
            self._compiled[constraint] = compiled
            self._compiled.move_to_end(constraint)
            if len(self._compiled) > _COMPILED_KEPT:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()

    def _compile(self, constraint: OutputConstraint) -> Any:
        from llguidance import LLMatcher

        try:
            if constraint.kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(constraint.source, defaults=_JSON)
            elif constraint.kind == "regex":
                grammar = LLMatcher.grammar_from_regex(constraint.source)
            else:
                grammar = LLMatcher.grammar_from_lark(constraint.source)
        except ValueError as error:
            raise ConstraintError(str(error)) from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ConstraintError(matcher.get_error().strip())
        return matcher
