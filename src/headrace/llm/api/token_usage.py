"""How many tokens a request is likely to use, and how many it has used, by what the engine tells in its answer."""

from __future__ import annotations

import re

import msgspec

from headrace.llm.api.request_fields import RequestFields

_BYTES_PER_TOKEN = 4
_OPT_IN_PATHS = frozenset(("/v1/chat/completions", "/v1/completions"))
"""Where streams tell what they used only to those who ask."""

_FREE_PATHS = frozenset(("/tokenize", "/detokenize", "/v1/messages/count_tokens"))
_LONG_BYTES = 4096
_BINARY = re.compile(rb'(?:;base64,|"data" ?: ?")[^"]*')
_WANTED = b'{"stream_options":{"include_usage":true},'


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class _Holder(msgspec.Struct):
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    response: _Holder | None = None  # of events of /v1/responses
    message: _Holder | None = None  # of the first event of /v1/messages
    choices: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def estimated_tokens(path: str, fields: RequestFields) -> int:
    """What a request is likely to use: its prompt, at four bytes a token, and the longest answer that it asks for."""
    if path in _FREE_PATHS:
        return 0
    asked = _number(fields.max_completion_tokens) or _number(fields.max_tokens) or _number(fields.max_output_tokens)
    return _prompt_tokens(fields) + asked * max(1, _number(fields.n))


def _prompt_tokens(fields: RequestFields) -> int:
    prompt = fields.prompt_text
    size = len(prompt)
    if size > _LONG_BYTES:  # what pictures and sound take is far from what they are in tokens, which the engine tells
        size -= sum(found.end() - found.start() for found in _BINARY.finditer(prompt))
    return size // _BYTES_PER_TOKEN + 1


def _number(raw: msgspec.Raw) -> int:
    text = bytes(raw)
    return int(text) if text.isdigit() and len(text) < 10 else 0


class TokenCount:
    """Counts what one request uses while its answer passes by. Makes a stream tell, and hides from the client what the
    client has not asked for.

    Args:
        path: of the API.
        body: the client's.
        fields: of that body.

    Attributes:
        body: what to send to the engine.
    """

    def __init__(self, path: str, body: bytes, fields: RequestFields) -> None:
        self.body = body
        self._free = path in _FREE_PATHS
        self._prompt = 0 if self._free else _prompt_tokens(fields)
        self._events = 0
        self._input = 0
        self._output = 0
        self._hide = False
        if path in _OPT_IN_PATHS and bytes(fields.stream) == b"true":
            self._ask(fields)

    def _ask(self, fields: RequestFields) -> None:
        given = bytes(fields.stream_options)
        if given in (b"", b"null"):
            self._hide = True
            opening = self.body.find(b"{") + 1
            if given:
                self._rewrite({})
            else:  # the bytes of all else stay as they are
                self.body = _WANTED + self.body[opening:]
            return
        options = msgspec.json.decode(given)
        if isinstance(options, dict) and options.get("include_usage") is not True:
            self._hide = True
            self._rewrite(options)

    def _rewrite(self, options: dict[str, object]) -> None:
        content = msgspec.json.decode(self.body)
        content["stream_options"] = {**options, "include_usage": True}
        self.body = msgspec.json.encode(content)

    @property
    def used(self) -> int:
        """Tokens of prompt and answer, as told; where the answer broke off before that, as far as can be seen."""
        if self._free:
            return 0
        return (self._input or self._prompt) + (self._output or self._events)

    def whole(self, body: bytes, status: int) -> None:
        """An answer that is there at once. What failed has used nothing."""
        if status >= 400:
            self._free = True
        elif b'"usage"' in body:
            self._read(body)

    def piece(self, piece: bytes) -> bytes:
        """A piece of a stream: whole events.

        Returns:
            What the client is to get of it.
        """
        self._events += piece.count(b"data:")
        if b'"usage":{' not in piece and b'"usage": {' not in piece:
            return piece
        kept = []
        for event in piece.split(b"\n\n"):
            if b'"usage"' in event:
                answer = self._read(event[event.find(b"{") :])
                if self._hide and answer is not None and answer.usage is not None and answer.choices == []:
                    continue
            kept.append(event)
        return b"\n\n".join(kept)

    def _read(self, body: bytes) -> _Answer | None:
        try:
            answer = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        for holder in (answer, answer.response, answer.message):
            if holder is not None and holder.usage is not None:
                self._note(holder.usage)
        return answer

    def _note(self, usage: _Usage) -> None:
        # Several events may tell, each more than the one before.
        given_input = usage.prompt_tokens or usage.input_tokens
        given_output = usage.completion_tokens or usage.output_tokens
        self._input = max(self._input, given_input)
        self._output = max(self._output, given_output, usage.total_tokens - given_input)
