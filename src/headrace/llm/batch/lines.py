"""The lines of OpenAI's batch files: requests in, responses out.

The format: https://platform.openai.com/docs/api-reference/batch/request-input
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import msgspec

from headrace.exceptions import ConfigError

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/score",
    "/v1/rerank",
)
"""What a line may ask for."""


class BatchLineError(ConfigError):
    """A line of a batch file is wrong.

    Attributes:
        line: its number, from 1.
        message: what is wrong with it.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of an input file.

    Attributes:
        custom_id: names the line in the output; unique within a file.
        url: path of the API, one of `PATHS`.
        body: the request's JSON, as it stands in the file.
    """

    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BatchResponse:
    """What became of one line: an answer with any status, or none.

    Attributes:
        status_code: HTTP status; 0 if no answer came.
        body: the answer's JSON.
        request_id: as the server calls the request.
        error: why no answer came; None if one did.
    """

    status_code: int
    body: bytes = b""
    request_id: str = ""
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status_code < 300


class _InputLine(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


_decoder = msgspec.json.Decoder(_InputLine)


def parse_request(number: int, line: bytes) -> BatchRequest:
    """Read one line.

    Raises:
        BatchLineError: it is no JSON object with `custom_id`, `url` and `body`, or asks for what there is not.
    """
    try:
        request = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise BatchLineError(number, f"{error}; a line is {_EXAMPLE}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BatchLineError(number, f"not JSON: {error}") from None
    if not bytes(request.body).lstrip().startswith(b"{"):
        raise BatchLineError(number, f"body: must be an object; a line is {_EXAMPLE}")
    if request.method != "POST":
        raise BatchLineError(number, f"method: must be 'POST', not {request.method!r}")
    if request.url not in PATHS:
        near = difflib.get_close_matches(request.url, PATHS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(PATHS)}"
        raise BatchLineError(number, f"url: {request.url!r} cannot be asked for in a batch; {hint}")
    if not request.custom_id:
        raise BatchLineError(number, "custom_id: must not be empty")
    return BatchRequest(request.custom_id, request.url, bytes(request.body))


_EXAMPLE = (
    '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    '"body": {"model": "...", "messages": [{"role": "user", "content": "..."}]}}'
)


def read_requests(lines: Iterable[bytes]) -> Iterator[BatchRequest]:
    """Read an input file; empty lines are left out.

    Raises:
        BatchLineError: a line is wrong, or its `custom_id` was there before.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = parse_request(number, line)
        before = seen.setdefault(request.custom_id, number)
        if before != number:
            raise BatchLineError(number, f"custom_id: {request.custom_id!r} is that of line {before} already")
        yield request


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _OutputLine(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


_outputs = msgspec.json.Decoder(_OutputLine)


def format_response(request: BatchRequest, response: BatchResponse) -> bytes:
    """One line of an output file, with its end."""
    answer, error = None, None
    if response.error is None:
        answer = _Response(response.status_code, response.request_id, msgspec.Raw(_as_json(response.body)))
    else:
        error = _Error("no_response", response.error)
    line = _OutputLine(f"batch_req_{uuid4().hex}", request.custom_id, answer, error)
    return msgspec.json.encode(line) + b"\n"


def kept_answer(line: bytes) -> tuple[str, int] | None:
    """The `custom_id` and the status of an output file's line if its answer is not to be asked for again.

    None for lines without an answer, with one that says "later" (429, 5xx), and for those that are broken off.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        output = _outputs.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if output.response is None or may_pass(output.response.status_code):
        return None
    return output.custom_id, output.response.status_code


def answer_status(line: bytes) -> int | None:
    """The status in a line of an output file; None where no answer came."""
    response = _outputs.decode(line).response
    return None if response is None else response.status_code


def may_pass(status_code: int) -> bool:
    """Whether the same request may be answered later: no answer came, too many requests, an error of the server's."""
    return status_code in (0, 408, 429) or status_code >= 500


def _as_json(body: bytes) -> bytes:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.encode(body.decode(errors="replace"))
    # One line must stay one line, whatever the server's taste in white space.
    return msgspec.json.format(body, indent=-1)
