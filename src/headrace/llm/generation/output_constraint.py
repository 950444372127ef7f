"""What the text of an answer has to match: from `response_format`, `structured_outputs` and `tool_choice`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import SamplingFields
from headrace.llm.generation.token_engine import ConstraintError, OutputConstraint, TokenEngine, TokenModel

_STRUCTURED = ("json", "regex", "choice", "grammar", "json_object")


def constraint_of(request: SamplingFields, model: TokenModel) -> OutputConstraint | None:
    """What the request's fields ask for.

    Raises:
        RequestError: a field is wrong, or the engine cannot keep to it.
    """
    constraint, param = _response_format(request.response_format), "response_format"
    if constraint is None:
        constraint, param = _structured_outputs(request.structured_outputs), "structured_outputs"
    if constraint is not None:
        require_support(constraint, model, param)
    return constraint


def require_support(constraint: OutputConstraint, model: TokenModel, param: str) -> None:
    """
    Raises:
        RequestError: the engine cannot keep to such a constraint.
    """
    if constraint.kind not in model.constraints:
        raise RequestError(
            f"{param}: the engine '{model.engine}' cannot keep an answer to a {constraint.kind.replace('_', ' ')} here",
            param,
        )


async def check(engine: TokenEngine, constraint: OutputConstraint, request: SamplingFields, of_tools: bool) -> None:
    """
    Args:
        of_tools: the constraint comes from the tools of a chat, not from the fields that a request names it in.

    Raises:
        RequestError: the engine cannot keep to it; names the field that it came from.
    """
    try:
        await engine.check_constraint(constraint)
    except ConstraintError as error:
        of_format = _response_format(request.response_format) is not None
        param = "tools" if of_tools else "response_format" if of_format else "structured_outputs"
        raise RequestError(f"{param}: {error}", param) from None


def from_schema(schema: Any) -> OutputConstraint:
    """Text that is JSON, and matches the schema."""
    return OutputConstraint("json_schema", msgspec.json.encode(schema).decode())


def _response_format(given: dict[str, Any] | None) -> OutputConstraint | None:
    kind = given.get("type") if given else None
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return from_schema({"type": "object"})
    if kind != "json_schema":
        raise RequestError(
            f"response_format.type: must be 'text', 'json_object' or 'json_schema', not {kind!r}",
            "response_format.type",
        )
    outer = given.get("json_schema")
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict):
        raise RequestError(
            "response_format.json_schema.schema: must be a JSON schema: "
            '{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}',
            "response_format.json_schema.schema",
        )
    return from_schema(schema)


def _structured_outputs(given: dict[str, Any] | None) -> OutputConstraint | None:
    """vLLM's own field: one of a schema, an expression, a choice of texts, a grammar."""
    named = {key: value for key, value in (given or {}).items() if key in _STRUCTURED and value is not None}
    if not named:
        return None
    if len(named) > 1:
        raise RequestError(f"structured_outputs: give one of {', '.join(named)}, not all", "structured_outputs")
    ((kind, value),) = named.items()
    if kind == "json":
        return OutputConstraint("json_schema", value) if isinstance(value, str) else from_schema(value)
    if kind == "json_object":
        return from_schema({"type": "object"})
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
            raise RequestError("structured_outputs.choice: must be a list of texts", "structured_outputs.choice")
        return OutputConstraint("regex", "|".join(f"({re.escape(text)})" for text in value))
    if not isinstance(value, str):
        raise RequestError(f"structured_outputs.{kind}: must be a string", f"structured_outputs.{kind}")
    return OutputConstraint("regex" if kind == "regex" else "lark", value)
