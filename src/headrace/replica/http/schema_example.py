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
_MAX_DEPTH = 6


def schema_example(schema: dict[str, Any], components: dict[str, Any], depth: int = 0) -> Any:
    """A value that the schema allows, as far as types, enums, defaults and lower bounds tell.

    Args:
        components: the document's `components.schemas`, which `$ref` leads to.
    """
    if depth > _MAX_DEPTH:  # a recursive model
        return None
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return schema_example(components.get(name, {}), components, depth + 1)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("default", "example", "const"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return schema_example(schema[key][0], components, depth + 1)
    return _of_type(schema, components, depth)


def _of_type(schema: dict[str, Any], components: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if kind == "object":
        return {
            name: schema_example(part, components, depth + 1) for name, part in schema.get("properties", {}).items()
        }
    if kind == "array":
        if "prefixItems" in schema:
            return [schema_example(part, components, depth + 1) for part in schema["prefixItems"]]
        return [schema_example(schema.get("items", {}), components, depth + 1)] * max(1, schema.get("minItems", 1))
    if kind == "string":
        return _BY_FORMAT.get(schema.get("format", ""), "text".ljust(schema.get("minLength", 0), "."))
    if kind in ("integer", "number"):
        lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        return int(lowest) if kind == "integer" else float(lowest)
    return True if kind == "boolean" else None
