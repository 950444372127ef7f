"""Tool calls in generated text, as it comes.

Models of the Hermes family (Qwen and many others) write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.
Where `tool_choice` names a tool, or requires one, the text is kept to a JSON schema and is all call.
"""

from __future__ import annotations

import re
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from headrace.llm.generation.stop_strings import StopStringScanner

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL)


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A part of a call.

    Attributes:
        index: which of the answer's calls.
        arguments: more of its arguments, as JSON text.
        id, name: in the first part of a call; None in the others.
    """

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Delta = str | ToolCallDelta


class ToolParser(Protocol):
    """Takes text apart into content and calls.

    Attributes:
        calls: so many have begun.
    """

    calls: int

    def push(self, text: str) -> list[Delta]:
        """What the text adds."""

    def finish(self) -> list[Delta]:
        """The text has ended."""


def _call_id() -> str:
    return f"call_{uuid4().hex[:24]}"


class HermesParser:
    """Content with `<tool_call>` blocks in it; arguments are passed on while they are written."""

    def __init__(self) -> None:
        self.calls = 0
        self._outside: StopStringScanner | None = StopStringScanner((_OPEN,))
        self._call = ""
        self._arguments: _JsonObjectEnd | None = None
        self._after_call = False

    def push(self, text: str) -> list[Delta]:
        deltas: list[Delta] = []
        while text:
            text = self._outside_call(text, deltas) if self._outside else self._inside_call(text, deltas)
        return deltas

    def _outside_call(self, text: str, deltas: list[Delta]) -> str:
        scanner = self._outside
        assert scanner is not None
        self._content(scanner.push(text), deltas)
        if scanner.matched is None:
            return ""
        self._outside = None
        self._call = ""
        return scanner.rest

    def _content(self, text: str, deltas: list[Delta]) -> None:
        # Models put line breaks between calls; those are no content.
        if self._after_call:
            text = text.lstrip()
        if text:
            self._after_call = False
            deltas.append(text)

    def _inside_call(self, text: str, deltas: list[Delta]) -> str:
        self._call += text
        if self._arguments is None:
            head = _HEAD.match(self._call)
            if head is not None:
                name = msgspec.json.decode(head.group(1).encode(), type=str)
                deltas.append(ToolCallDelta(self.calls, "", _call_id(), name))
                self.calls += 1
                self._arguments = _JsonObjectEnd()
                self._call = self._call[head.end() :]
        if self._arguments is not None:
            passed = self._arguments.push(self._call)
            if passed:
                deltas.append(ToolCallDelta(self.calls - 1, self._call[:passed]))
                self._call = self._call[passed:]
            if not self._arguments.ended:
                return ""
        end = self._call.find(_CLOSE)
        if end < 0:
            return ""
        self._after_call = True
        if self._arguments is None:
            before = self.calls
            deltas.extend(self._whole_call(self._call[:end], closed=True))
            self._after_call = self.calls > before
        rest = self._call[end + len(_CLOSE) :]
        self._outside, self._arguments, self._call = StopStringScanner((_OPEN,)), None, ""
        return rest

    def _whole_call(self, text: str, *, closed: bool) -> list[Delta]:
        """A call whose members come in another order, or what only looked like one."""
        try:
            call = msgspec.json.decode(text)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
            if not isinstance(name, str):
                raise TypeError(name)
        except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
            return [_OPEN + text + (_CLOSE if closed else "")]
        self.calls += 1
        return [ToolCallDelta(self.calls - 1, _as_json_text(arguments), _call_id(), name)]

    def finish(self) -> list[Delta]:
        if self._outside is not None:
            deltas: list[Delta] = []
            self._content(self._outside.flush(), deltas)
            return deltas
        if self._arguments is not None:
            return []
        return self._whole_call(self._call, closed=False)


class NamedToolParser:
    """All of the text is the arguments of one tool."""

    def __init__(self, name: str) -> None:
        self.calls = 0
        self._name = name

    def push(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self.calls == 0:
            self.calls = 1
            return [ToolCallDelta(0, text, _call_id(), self._name)]
        return [ToolCallDelta(0, text)]

    def finish(self) -> list[Delta]:
        return []


class RequiredToolsParser:
    """All of the text is a JSON list of calls, `{"name": ..., "parameters": {...}}`."""

    def __init__(self) -> None:
        self.calls = 0
        self._text = ""

    def push(self, text: str) -> list[Delta]:
        self._text += text
        return []

    def finish(self) -> list[Delta]:
        try:
            calls = msgspec.json.decode(self._text, type=list[dict[str, Any]])
            found = [(str(call["name"]), _as_json_text(call.get("parameters", {}))) for call in calls]
        except (msgspec.DecodeError, KeyError):
            # Cut off by `max_tokens`.
            return [self._text] if self._text else []
        self.calls = len(found)
        return [ToolCallDelta(index, text, _call_id(), name) for index, (name, text) in enumerate(found)]


def _as_json_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


class _JsonObjectEnd:
    """Finds where a JSON object ends."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def push(self, text: str) -> int:
        """How many characters of the text belong to the object."""
        if self.ended:
            return 0
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                if character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return position + 1
        return len(text)
