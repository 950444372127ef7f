"""What is wrong with a user's options, in words: from pydantic's errors to a `ConfigError` that says what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from headrace.exceptions import ConfigError

Path = tuple[str | int, ...]

_LONGEST_VALUE = 80
_SECRET_WORDS = ("password", "secret", "token")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is (keys and list indices from the outermost object on) and what would be right."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{written(self.path)}: {self.text}" if self.path else self.text


def written(path: Iterable[str | int]) -> str:
    """`("applications", 0, "name")` as `applications[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A value as an error message shows it: its repr, cut where it gets long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    known = list(known)
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.6)
    return by_lower_case[found[0]] if found else None


def one_of(allowed: Sequence[str]) -> str:
    """`["a", "b", "c"]` as `'a', 'b' or 'c'`."""
    quoted = [f"'{name}'" for name in allowed]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def wrong_choice(value: object, allowed: Sequence[str]) -> str:
    """What to say to somebody who chose something that is not on offer."""
    meant = nearest(value, allowed) if isinstance(value, str) else None
    hint = f"; did you mean '{meant}'?" if meant else ""
    return f"must be {one_of(allowed)}, not {shown(value)}{hint}"


def mistake(text: str, *at: str | int) -> PydanticCustomError:
    """An error for a validator of several fields to raise, with the path, from what it validates, of the wrong one."""
    return PydanticCustomError("mistake", "{text}", {"text": text, "at": at})


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """All mistakes that pydantic found while it validated something into `model`."""
    return [_problem(details, model) for details in error.errors(include_url=False)]


def config_error(title: str, problems: Sequence[Problem]) -> ConfigError:
    """One line for one mistake, a list for several."""
    if len(problems) == 1:
        return ConfigError(f"{title}: {problems[0]}")
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return ConfigError(f"{title}: {len(problems)} mistakes{lines}")


def _problem(error: ErrorDetails, model: type[BaseModel]) -> Problem:
    path: Path = (*error["loc"], *error.get("ctx", {}).get("at", ()))
    if error["type"] == "extra_forbidden":
        return Problem(path, _unknown_option(str(path[-1]), _model_at(model, path[:-1])))
    if path and path[-1] == "[key]":
        return Problem(path[:-2], f"the key {shown(error['input'])} must be a string")
    return Problem(path, _sentence(error, path))


def _unknown_option(name: str, model: type[BaseModel]) -> str:
    refused: Mapping[str, str] = getattr(model, "refused", {})
    if name in refused:
        return refused[name]
    for field_name, field in model.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None and name in inner.model_fields:
            return f"no such option here; it belongs in '{field_name}'"
    meant = nearest(name, model.model_fields)
    if meant is not None:
        return f"no such option; did you mean '{meant}'?"
    return f"no such option; there are {', '.join(sorted(model.model_fields))}"


def _sentence(error: ErrorDetails, path: Path) -> str:
    value, context = error["input"], error.get("ctx", {})
    secret = any(word in str(part) for part in path for word in _SECRET_WORDS)
    got = "" if secret else f", not {shown(value)}"
    match error["type"]:
        case "mistake":
            return error["msg"]
        case "literal_error" | "enum":
            return _wrong_literal(str(context["expected"]), value)
        case "missing":
            return "is required"
        case "value_error" | "assertion_error":
            return str(context.get("error", error["msg"]))
        case "greater_than":
            return f"must be greater than {context['gt']:g}{got}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}{got}"
        case "less_than":
            return f"must be less than {context['lt']:g}{got}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}{got}"
        case "finite_number":
            return f"must be a finite number{got}"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"must be a whole number{got}"
        case "float_type" | "float_parsing":
            return f"must be a number{got}"
        case "bool_type" | "bool_parsing":
            return f"must be true or false{got}"
        case "string_type":
            in_quotes = isinstance(value, int | float) and not secret
            return f"must be a string{got}" + (f'; put it in quotes: "{value}"' if in_quotes else "")
        case "string_too_short":
            return "must not be empty"
        case "list_type" | "tuple_type":
            return f"must be a list{got}"
        case "too_short":
            return f"must have at least {context['min_length']} entry"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be a mapping of names to values{got}"
        case _:
            return f"{error['msg']}{got}"


def _wrong_literal(expected: str, value: object) -> str:
    meant = nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else None
    return f"must be {expected}, not {shown(value)}" + (f"; did you mean '{meant}'?" if meant else "")


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model that the object at `path` was validated into."""
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = _model_in(field.annotation) if field is not None else None
        model = inner or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in `Model`, `Model | None`, `list[Model]`, …"""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument)) is not None), None)
