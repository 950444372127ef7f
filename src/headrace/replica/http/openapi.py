"""The OpenAPI 3.1 document of a typed handler."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from starlette.responses import Response

from .signature import EMPTY, Parameter
from .typed_arguments import TypedArguments
from .typed_dict_compat import with_typed_dicts_for_pydantic

REF_TEMPLATE = "#/components/schemas/{model}"

VALIDATION_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                    "input": {},
                },
                "required": ["loc", "msg", "type"],
            },
        },
        "request_id": {"type": "string"},
    },
    "required": ["detail"],
}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"detail": {"type": "string"}, "request_id": {"type": "string"}},
    "required": ["detail"],
}

_STREAMS = (
    collections.abc.Generator,
    collections.abc.AsyncGenerator,
    collections.abc.Iterator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
)


def openapi_document(
    arguments: TypedArguments, returns: Any, owner: str, doc: str | None, root_path: str
) -> dict[str, Any]:
    """Describes one handler: its body or query, its answer, and its errors.

    Args:
        returns: the return annotation, `EMPTY` if there is none.
        owner: title and name of the operation.
        doc: the handler's docstring.
        root_path: where the deployment is mounted; the path of the operation.
    """
    components: dict[str, Any] = {"ValidationError": VALIDATION_ERROR_SCHEMA, "Error": ERROR_SCHEMA}
    summary, _, description = inspect.cleandoc(doc or "").partition("\n")
    common: dict[str, Any] = {"summary": summary or owner}
    if description.strip():
        common["description"] = description.strip()
    responses = _responses(returns, components)
    operations: dict[str, Any] = {
        "post": {
            **common,
            "operationId": f"{owner}.post",
            "requestBody": {
                "required": not arguments.body_is_optional,
                "content": _body_content(arguments, body_schema(arguments, components)),
            },
            "responses": responses,
        }
    }
    if arguments.query_adapter is not None:
        operations["get"] = {
            **common,
            "operationId": f"{owner}.get",
            "parameters": [_query_parameter(parameter, components) for parameter in arguments.query_parameters],
            "responses": responses,
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": owner, "version": "1"},
        "paths": {root_path or "/": operations},
        "components": {"schemas": components},
    }


def body_schema(arguments: TypedArguments, components: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of the body, with the parameters' defaults. Shared definitions go into `components`."""
    schema = _schema_of(arguments.body_adapter, "validation", components)
    if arguments.whole_body is None:
        schema.pop("title", None)
        for parameter in arguments.body_parameters:
            _add_default(schema.get("properties", {}).get(parameter.name), parameter)
    else:
        _add_default(schema, arguments.whole_body)
    return schema


def _body_content(arguments: TypedArguments, schema: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if arguments.takes_text:
        content["text/plain"] = {"schema": {"type": "string"}}
    if arguments.takes_bytes:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _query_parameter(parameter: Parameter, components: dict[str, Any]) -> dict[str, Any]:
    schema = _schema_of(TypeAdapter(parameter.type_to_validate()), "validation", components)
    _add_default(schema, parameter)
    return {"name": parameter.name, "in": "query", "required": parameter.required, "schema": schema}


def _responses(returns: Any, components: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": REF_TEMPLATE.format(model="Error")}}}
    invalid = {"application/json": {"schema": {"$ref": REF_TEMPLATE.format(model="ValidationError")}}}
    return {
        "200": {"description": "The handler's result", "content": _result_content(returns, components)},
        "400": {"description": "The body is empty or not JSON", "content": error},
        "422": {"description": "The body is JSON, but not what the handler takes", "content": invalid},
        "500": {"description": "The handler raised; its traceback is in the replica's log", "content": error},
        "503": {"description": "Too many requests are waiting, or no replica is available", "content": error},
    }


def _result_content(returns: Any, components: dict[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(returns) or returns
    if returns is str or origin in _STREAMS:
        return {"text/plain": {"schema": {"type": "string"}}}
    if returns is bytes:
        return {"text/plain": {"schema": {"type": "string", "format": "binary"}}}
    if returns is EMPTY or (isinstance(origin, type) and issubclass(origin, Response)):
        return {"application/json": {"schema": {}}}
    try:
        schema = _schema_of(TypeAdapter(with_typed_dicts_for_pydantic(returns)), "serialization", components)
    except (PydanticSchemaGenerationError, PydanticUserError):  # e.g. numpy arrays: JSON, of a shape not told
        schema = {}
    return {"application/json": {"schema": schema}}


def _schema_of(
    adapter: TypeAdapter[Any], mode: typing.Literal["validation", "serialization"], components: dict[str, Any]
) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(ref_template=REF_TEMPLATE, mode=mode)
    except PydanticInvalidForJsonSchema:  # validates, but JSON schema has no words for it
        return {}
    for name, definition in schema.pop("$defs", {}).items():
        components.setdefault(name, definition)
    return schema


def _add_default(schema: dict[str, Any] | None, parameter: Parameter) -> None:
    if schema is None or parameter.required:
        return
    try:
        schema["default"] = TypeAdapter(Any).dump_python(parameter.default_value(), mode="json")
    except Exception:  # a default that JSON cannot say is simply not shown
        pass
