"""pydantic's validation errors in the shape that FastAPI's clients know."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, TypedDict

from pydantic import ValidationError

MAX_ERRORS = 50
MAX_INPUT_CHARACTERS = 200
MAX_INPUT_ITEMS = 20


class ErrorDetail(TypedDict):
    """One wrong place in a request. `loc`: `["body", key, ...]` or `["query", key]`."""

    loc: list[str | int]
    msg: str
    type: str
    input: Any


def detail_of(error: ValidationError, source: str, names: Sequence[str]) -> list[ErrorDetail]:
    """The errors as a list for the key `detail`. Long inputs are cut: an answer must not echo a megabyte.

    Args:
        source: `"body"` or `"query"`, the first part of each `loc`.
        names: keys that would be right at the top level, for unknown ones.
    """
    return [
        {
            "loc": [source, *entry["loc"]],
            "msg": _message(entry["type"], entry["loc"], entry["msg"], entry["input"], names),
            "type": entry["type"],
            "input": shortened(entry["input"]),
        }
        for entry in error.errors(include_url=False, include_context=False)[:MAX_ERRORS]
    ]


def json_error_of(error: ValidationError) -> str | None:
    """Where and how the body stops being JSON; None if it is JSON."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid" and not first["loc"]:
        return str(first.get("ctx", {}).get("error", first["msg"]))
    return None


def add_whole_body_hint(detail: list[ErrorDetail], name: str, body: bytes) -> None:
    """A handler with one parameter takes the body itself; many clients send an object with the parameter's name."""
    if not detail or len(detail[0]["loc"]) != 1:
        return
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(sent, dict) and name in sent:
        detail[0]["msg"] += f" (send the value of {name!r} itself as the body, not an object with the key {name!r})"


def shortened(value: Any) -> Any:
    """`value`, or the beginning of it where it is long."""
    if isinstance(value, str | bytes) and len(value) > MAX_INPUT_CHARACTERS:
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        return f"{text[:MAX_INPUT_CHARACTERS]}… ({len(value)} in all)"
    if isinstance(value, dict):
        return {shortened(key): shortened(item) for key, item in list(value.items())[:MAX_INPUT_ITEMS]}
    if isinstance(value, list | tuple):
        return [shortened(item) for item in value[:MAX_INPUT_ITEMS]]
    return value


def _message(kind: str, loc: tuple[str | int, ...], message: str, given: Any, names: Sequence[str]) -> str:
    if kind == "missing" and isinstance(given, dict):
        # A model that ignores unknown keys would not say that a misspelt one is the missing one.
        similar = difflib.get_close_matches(str(loc[-1]), [key for key in given if key not in names], n=1, cutoff=0.7)
        return f"{message} (is {similar[0]!r} meant to be {loc[-1]!r}?)" if similar else message
    if kind != "extra_forbidden" or len(loc) != 1:
        return message
    nearest = difflib.get_close_matches(str(loc[0]), names, n=1)
    if nearest:
        return f"unknown key {loc[0]!r}; did you mean {nearest[0]!r}?"
    return f"unknown key {loc[0]!r}; expected {', '.join(map(repr, names)) or 'none'}"
