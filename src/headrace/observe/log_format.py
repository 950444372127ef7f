"""Forms of a log line: text for people, JSON for machines. Both tell the process and the request that it is about."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from headrace.observe.log_files import LoggedProcess

STDOUT, STDERR = "stdout", "stderr"
"""Names of the loggers as which printed lines appear."""

CONTINUED = "\n\t"
"""In text files, a line that belongs to the one before is indented: what a client sends cannot pass for a line."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName", "request_id", "route"}
_RAYS_EXTRA = "ray_serve_extra_fields"
"""Under which applications for Ray Serve hand in fields of their own."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Request(Protocol):
    """What is told of a request."""

    @property
    def request_id(self) -> str: ...
    @property
    def route(self) -> str: ...


CurrentRequest = Callable[[], Request | None]


def request_of(record: logging.LogRecord, current: CurrentRequest | None) -> tuple[str, str]:
    """Id and route of the request that a line is about, "" for none: as it says itself, or where it came up."""
    request_id = getattr(record, "request_id", None)
    if request_id is not None:
        return str(request_id), str(getattr(record, "route", ""))
    request = current() if current is not None else None
    return ("", "") if request is None else (request.request_id, request.route)


def in_request(request: Request | None) -> dict[str, str] | None:
    """`extra` of a logging call outside of the request's own task."""
    return None if request is None else {"request_id": request.request_id, "route": request.route}


class UtcTime:
    """Seconds since the epoch as RFC 3339 with milliseconds. Most times are of the second before."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known = (-1, "")

    def __call__(self, seconds: float) -> str:
        whole = int(seconds)
        known, text = self._known
        if known != whole:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._known = (whole, text)  # one assignment: threads may share this
        return f"{text}.{int((seconds - whole) * 1000):03d}Z"


def word(text: str) -> str:
    """One word of a text line, which clients cannot break into two, or colour."""
    if not text:
        return "-"
    if text.isprintable() and " " not in text:
        return text
    return "".join(c if c.isprintable() and c != " " else "_" for c in text)


class TextFormatter(logging.Formatter):
    """
    Args:
        process: whose lines they are.
        current: the request that is worked on.
        attributes: of the record, to be shown at the end.
        on_terminal: short times and the message's own colours; else, times that machines can read.
    """

    def __init__(
        self, process: LoggedProcess, current: CurrentRequest | None, attributes: list[str], on_terminal: bool
    ) -> None:
        super().__init__()
        self._label = word(process.label)
        self._current = current
        self._attributes = attributes
        self._on_terminal = on_terminal
        self._utc = UtcTime()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._on_terminal:
            if "\x1b" in text:
                text = _COLOURS.sub("", text)
            if "\n" in text:
                text = text.replace("\n", CONTINUED)
        return text

    def formatMessage(self, record: logging.LogRecord) -> str:
        at = record.created
        shown = time.strftime("%H:%M:%S", time.localtime(at)) if self._on_terminal else self._utc(at)
        request_id, route = request_of(record, self._current)
        request = f" {word(request_id)} {word(route)}" if request_id else ""
        end = ""
        if self._attributes:
            record.asctime = self._utc(at)
            end = "".join(f" {name}={getattr(record, name, None)}" for name in self._attributes)
        return f"{shown} {record.levelname:<7} {self._label}{request}: {record.message}{end}"


class JsonFormatter(logging.Formatter):
    """Ray Serve's fields. `extra` of a logging call becomes fields too. For the arguments see `TextFormatter`."""

    def __init__(self, process: LoggedProcess, current: CurrentRequest | None, attributes: list[str]) -> None:
        super().__init__()
        self._process = fields_of(process)
        self._current = current
        self._attributes = attributes
        self._utc = UtcTime()

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line: dict[str, Any] = {
            "asctime": self._utc(record.created),
            "levelname": record.levelname,
            "message": _COLOURS.sub("", message) if "\x1b" in message else message,
            **self._process,
            "logger": record.name,
        }
        request_id, route = request_of(record, self._current)
        if request_id:
            line["request_id"], line["route"] = request_id, route
        if record.lineno:
            line["filename"], line["lineno"] = record.filename, record.lineno
        if record.exc_info:
            line["exc_text"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            line["stack_info"] = record.stack_info
        for name in self._attributes:
            line[name] = line.get(name, getattr(record, name, None))
        for name, value in vars(record).items():
            if name not in _STANDARD:
                more = value if name == _RAYS_EXTRA and isinstance(value, dict) else {name: value}
                line.update((str(key), each) for key, each in more.items() if key not in line)
        return encoded(line)


def fields_of(process: LoggedProcess) -> dict[str, str]:
    """What JSON lines tell of their process, under Ray Serve's names."""
    if process.component == "replica":
        return {
            "component_name": "replica",
            "application": process.application,
            "deployment": process.deployment,
            "replica": process.id,
        }
    return {"component_name": process.component, "component_id": process.id}


def encoded(line: dict[str, Any]) -> str:
    """A line as JSON, whatever user code has put into it."""
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except Exception:
        safe = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in line.items()}
        return msgspec.json.encode(safe).decode()
