"""An example value for a JSON schema, for people to start from."""

from __future__ import annotations

from typing import Any

_BY_FORMAT = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00",
    "duration": "PT1M",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "someone@example.org",
    "uri": "https://example.org",
}

_NOTHING = object()
"""Where a model would contain itself: the part is left out, or another alternative taken."""


def schema_example(schema: dict[str, Any], components: dict[str, Any]) -> Any:
    """A value that the schema allows, as far as types, enums, defaults and lower bounds tell.

    Args:
        components: the document's `components.schemas`, which `$ref` leads to.
    """
    example = _example(schema, components, ())
    return None if example is _NOTHING else example


def _example(schema: dict[str, Any], components: dict[str, Any], inside: tuple[str, ...]) -> Any:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in inside:
            return _NOTHING
        return _example(components.get(name, {}), components, (*inside, name))
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("default", "example", "const"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            alternatives = (_example(part, components, inside) for part in schema[key])
            return next((example for example in alternatives if example is not _NOTHING), _NOTHING)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, components, inside)
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items", {})] * max(1, schema.get("minItems", 1))
        examples = [_example(part, components, inside) for part in parts]
        return [example for example in examples if example is not _NOTHING]
    return _scalar(kind, schema)


def _object(schema: dict[str, Any], components: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    examples = {name: _example(part, components, inside) for name, part in schema.get("properties", {}).items()}
    return {name: example for name, example in examples.items() if example is not _NOTHING}


def _scalar(kind: Any, schema: dict[str, Any]) -> Any:
    if kind == "string":
        return _BY_FORMAT.get(schema.get("format", ""), "text".ljust(schema.get("minLength", 0), "."))
    if kind in ("integer", "number"):
        lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return int(lowest) if kind == "integer" else float(lowest)
    return True if kind == "boolean" else None
