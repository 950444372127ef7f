"""The arguments of a typed handler, validated from a request's body or query string."""

from __future__ import annotations

import typing
from typing import Any, NotRequired
from urllib.parse import parse_qsl

from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ...exceptions import InvalidRequestError
from .request import request_from
from .scalar_types import is_scalar, takes_raw_bytes, takes_raw_text
from .signature import Parameter
from .validation_errors import add_whole_body_hint, detail_of, json_error_of

BODY_METHODS = ("POST", "PUT", "PATCH")
QUERY_METHODS = ("GET", "HEAD")


class MethodNotAllowed(InvalidRequestError):
    """The handler does not answer this HTTP method. `headers` carries `Allow` (RFC 9110, 15.5.6)."""

    def __init__(self, method: str, allowed: tuple[str, ...], why: str) -> None:
        super().__init__(405, f"{method} is not possible here; use {' or '.join(allowed)}. {why}".rstrip())
        self.headers = {"allow": ", ".join(allowed)}


class TypedArguments:
    """Validates requests into the parameters of one handler.

    Attributes:
        body_parameters: all but those that take the request itself.
        whole_body: the parameter that takes the whole body; None where parameters are keys of an object.
        body_adapter: validates the body: the type of `whole_body`, or a typed dict of the parameters.
        query_adapter: validates the query string; None where the handler cannot be called without a body.
        query_parameters: those that a query string can carry.
    """

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        """
        Raises:
            PydanticUserError: an annotation is nothing that pydantic can validate.
        """
        self.parameters = parameters
        self.body_parameters = tuple(parameter for parameter in parameters if not parameter.takes_request)
        self.request_names = tuple(parameter.name for parameter in parameters if parameter.takes_request)
        self.whole_body = self.body_parameters[0] if len(self.body_parameters) == 1 else None
        self.names = tuple(parameter.name for parameter in self.body_parameters)
        self.body_is_optional = not any(parameter.required for parameter in self.body_parameters)
        self._explicit_defaults = tuple(p for p in self.body_parameters if p.passes_default)
        self._positional_only = tuple(parameter for parameter in parameters if parameter.positional_only)

        self.body_adapter: TypeAdapter[Any]
        if self.whole_body is not None:
            self.body_adapter = TypeAdapter(self.whole_body.type_to_validate())
        else:
            self.body_adapter = _object_adapter(self.body_parameters)
        self._validate_json = self.body_adapter.validator.validate_json
        self.takes_text = self.whole_body is not None and takes_raw_text(self.whole_body.annotation)
        self.takes_bytes = self.whole_body is not None and takes_raw_bytes(self.whole_body.annotation)
        # The common case, one parameter and nothing else, needs no dict per request.
        self._is_plain = len(parameters) == 1 and not parameters[0].keyword_only and self.whole_body is not None

        self.query_parameters = tuple(p for p in self.body_parameters if is_scalar(p.annotation))
        self._needs_body = tuple(p.name for p in self.body_parameters if p.required and p not in self.query_parameters)
        self.query_adapter = None if self._needs_body else _object_adapter(self.query_parameters)
        self.allowed_methods = BODY_METHODS if self._needs_body else (*BODY_METHODS, *QUERY_METHODS)

    def bind(self, scope: dict[str, Any], body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `HandlerPlan.bind`."""
        method = scope["method"]
        if method in BODY_METHODS:
            if self._is_plain and body:
                return (self._whole_body_from(scope, body),), {}
            values = self._values_from_body(scope, body)
        elif method in QUERY_METHODS and self.query_adapter is not None:
            values = self._values_from_query(scope, self.query_adapter)
        else:
            why = f"The body carries {_quoted(self._needs_body)}." if self._needs_body else ""
            raise MethodNotAllowed(method, self.allowed_methods, why)
        return self._arranged(scope, body, values)

    def expectation(self) -> str:
        """What a body should be, in words for an error message."""
        if self.whole_body is not None:
            kind = _JSON_WORDS.get(self._schema().get("type", ""), "a JSON value")
            return f"{kind} for {self.whole_body.name!r}"
        keys = [p.name if p.required else f"{p.name} (optional)" for p in self.body_parameters]
        return f"a JSON object with the keys {', '.join(keys)}"

    def _schema(self) -> dict[str, Any]:
        try:
            return self.body_adapter.json_schema()
        except Exception:  # a type that validates but has no schema
            return {}

    def _whole_body_from(self, scope: dict[str, Any], body: bytes) -> Any:
        content_type = _content_type(scope)
        if content_type not in _EXACT_JSON and not _is_json(content_type):
            return self._raw_body(content_type, body)
        try:
            return self._validate_json(body)
        except ValidationError as error:
            raise self._invalid_body(error, body) from None

    def _values_from_body(self, scope: dict[str, Any], body: bytes) -> dict[str, Any]:
        if self.whole_body is not None:
            if body or self._is_raw(_content_type(scope)):
                return {self.whole_body.name: self._whole_body_from(scope, body)}
        elif body:
            content_type = _content_type(scope)
            if content_type not in _EXACT_JSON and not _is_json(content_type):
                raise self._unsupported_media_type(content_type)
            try:
                values: dict[str, Any] = self._validate_json(body)
            except ValidationError as error:
                raise self._invalid_body(error, body) from None
            return values
        if self.body_is_optional:
            return {}
        raise InvalidRequestError(400, f"the body is empty; expected {self.expectation()}")

    def _values_from_query(self, scope: dict[str, Any], adapter: TypeAdapter[Any]) -> dict[str, Any]:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        try:
            values: dict[str, Any] = adapter.validator.validate_strings(query)
        except ValidationError as error:
            names = [parameter.name for parameter in self.query_parameters]
            raise InvalidRequestError(422, detail_of(error, "query", names)) from None
        return values

    def _arranged(
        self, scope: dict[str, Any], body: bytes, values: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for parameter in self._explicit_defaults:
            if parameter.name not in values:
                values[parameter.name] = parameter.default_value()
        if self.request_names:
            request = request_from(scope, body)
            for name in self.request_names:
                values[name] = request
        if not self._positional_only:
            return (), values
        positional = [values.pop(p.name) if p.name in values else p.default for p in self._positional_only]
        return tuple(positional), values

    def _is_raw(self, content_type: bytes) -> bool:
        media_type = _media_type(content_type)
        return (self.takes_text and media_type == b"text/plain") or (
            self.takes_bytes and media_type == b"application/octet-stream"
        )

    def _raw_body(self, content_type: bytes, body: bytes) -> Any:
        if not self._is_raw(content_type):
            raise self._unsupported_media_type(content_type)
        value: bytes | str = body
        if _media_type(content_type) == b"text/plain":
            charset = _charset(content_type)
            try:
                value = body.decode(charset)
            except (LookupError, UnicodeDecodeError) as error:
                raise InvalidRequestError(400, f"the body is not valid {charset}: {error}") from None
        try:
            return self.body_adapter.validator.validate_python(value)
        except ValidationError as error:
            raise InvalidRequestError(422, detail_of(error, "body", self.names)) from None

    def _unsupported_media_type(self, content_type: bytes) -> InvalidRequestError:
        accepted = ["application/json"]
        if self.takes_text:
            accepted.append("text/plain")
        if self.takes_bytes:
            accepted.append("application/octet-stream")
        return InvalidRequestError(
            415,
            f"content-type {content_type.decode('latin-1')!r} is not understood here; send {' or '.join(accepted)} "
            "(curl: -H 'content-type: application/json')",
        )

    def _invalid_body(self, error: ValidationError, body: bytes) -> InvalidRequestError:
        json_error = json_error_of(error)
        if json_error is not None:
            return InvalidRequestError(400, f"the body is not valid JSON: {json_error}; expected {self.expectation()}")
        detail = detail_of(error, "body", self.names)
        if self.whole_body is not None:
            add_whole_body_hint(detail, self.whole_body.name, body)
        return InvalidRequestError(422, detail)


_EXACT_JSON = (b"application/json", b"")

_JSON_WORDS = {
    "string": "a JSON string",
    "integer": "a whole JSON number",
    "number": "a JSON number",
    "boolean": "true or false",
    "array": "a JSON array",
    "object": "a JSON object",
    "null": "null",
}


def _object_adapter(parameters: tuple[Parameter, ...]) -> TypeAdapter[Any]:
    """Validates an object with the parameters as keys; those with defaults may be left out, others are refused."""
    # A typed dict rather than a model: any name is allowed, and the result is the keyword arguments.
    fields = {p.name: p.type_to_validate() if p.required else NotRequired[p.type_to_validate()] for p in parameters}
    typed_dict = TypedDict("Body", fields)  # type: ignore[misc]
    typed_dict.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return TypeAdapter(typing.cast(Any, typed_dict))


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)


def _content_type(scope: dict[str, Any]) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            return typing.cast(bytes, value)
    return b""


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _is_json(content_type: bytes) -> bool:
    media_type = _media_type(content_type)
    return media_type == b"application/json" or (
        media_type.startswith(b"application/") and media_type.endswith(b"+json")
    )


def _charset(content_type: bytes) -> str:
    for parameter in content_type.split(b";")[1:]:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"charset":
            return value.strip().strip(b'"').decode("latin-1")
    return "utf-8"
