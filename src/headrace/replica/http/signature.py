"""What a handler's signature says: its parameters with their annotations resolved, as far as they resolve."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo
from starlette.requests import HTTPConnection, Request

from .typed_dict_compat import with_typed_dicts_for_pydantic

EMPTY = inspect.Parameter.empty


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One named parameter.

    Attributes:
        annotation: resolved; `Any` where there is none.
        default: value or `EMPTY`; for a pydantic `Field(...)` as default, see `default_value`.
        problem: why the annotation could not be resolved, None if it was.
    """

    name: str
    annotation: Any
    default: Any = EMPTY
    positional_only: bool = False
    keyword_only: bool = False
    problem: str | None = None

    @property
    def required(self) -> bool:
        return self.default.is_required() if isinstance(self.default, FieldInfo) else self.default is EMPTY

    @property
    def takes_request(self) -> bool:
        return is_request_annotation(self.annotation)

    @property
    def is_untyped(self) -> bool:
        return self.annotation is Any or self.annotation is object

    @property
    def passes_default(self) -> bool:
        """Whether the default has to be passed explicitly: Python would pass the `Field(...)` itself."""
        return isinstance(self.default, FieldInfo)

    def default_value(self) -> Any:
        if isinstance(self.default, FieldInfo):
            return self.default.get_default(call_default_factory=True, validated_data={})
        return self.default

    def type_to_validate(self) -> Any:
        """The annotation as pydantic takes it, with the constraints of a `Field(...)` that stands as default."""
        annotation = with_typed_dicts_for_pydantic(self.annotation)
        if not isinstance(self.default, FieldInfo):
            return annotation
        metadata = [*self.default.metadata]
        if self.default.description:
            metadata.append(Field(description=self.default.description))
        for constraint in metadata:
            annotation = typing.Annotated[annotation, constraint]
        return annotation


@dataclass(frozen=True, slots=True)
class HandlerSignature:
    """A handler's parameters in order. `takes_any_positional`: it has `*args`. `returns`: `EMPTY` if not said."""

    parameters: tuple[Parameter, ...]
    takes_any_positional: bool
    returns: Any


def read_signature(fn: Callable[..., Any]) -> HandlerSignature:
    """Reads the signature of a function, bound method or callable object.

    If `fn` carries `__headrace_batched__`, `list[T]` means that one request brings one `T`, and gets one result.
    """
    try:
        signature = _signature(fn)
    except (TypeError, ValueError):  # a callable made in C that does not tell
        return HandlerSignature((), True, EMPTY)
    batched = bool(getattr(fn, "__headrace_batched__", False))
    namespace = _Namespace(fn)
    parameters: list[Parameter] = []
    takes_any_positional = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            takes_any_positional = True
        elif parameter.kind is not parameter.VAR_KEYWORD:
            annotation, problem = namespace.resolve(parameter.annotation)
            parameters.append(
                Parameter(
                    name=parameter.name,
                    annotation=_element(annotation) if batched else annotation,
                    default=parameter.default,
                    positional_only=parameter.kind is parameter.POSITIONAL_ONLY,
                    keyword_only=parameter.kind is parameter.KEYWORD_ONLY,
                    problem=problem,
                )
            )
    returns, problem = namespace.resolve(signature.return_annotation)
    if signature.return_annotation is EMPTY or problem is not None:
        returns = EMPTY
    elif batched:
        returns = _element(returns)
    return HandlerSignature(tuple(parameters), takes_any_positional, returns)


def is_request_annotation(annotation: Any) -> bool:
    """Whether it asks for the HTTP request: `Request`, `Request | None`, `Annotated[Request, …]`, a subclass."""
    return any(
        member is HTTPConnection or (isinstance(member, type) and issubclass(member, Request))
        for member in union_members(annotation)
    )


def union_members(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without `None`, `Annotated` and type arguments of a class."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        return [member for part in typing.get_args(annotation) for member in union_members(part)]
    if annotation is None or annotation is type(None):
        return []
    return [origin if isinstance(origin, type) and issubclass(origin, HTTPConnection) else annotation]


def _element(annotation: Any) -> Any:
    """`T` of `list[T]`; what it is not a list of stays as it is."""
    if annotation in (list, typing.List, tuple, typing.Tuple):  # noqa: UP006
        return Any
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _element(typing.get_args(annotation)[0])
    arguments = typing.get_args(annotation)
    if origin is not None and isinstance(origin, type) and arguments and issubclass(list, origin):
        return arguments[0]
    if origin is tuple and arguments:
        return arguments[0]
    return annotation


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


class _Namespace:
    """Where the names in a handler's string annotations are looked up."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        while isinstance(fn, functools.partial):
            fn = fn.func
        function = inspect.unwrap(fn)
        if not inspect.isroutine(function):
            function = inspect.unwrap(type(function).__call__)
        function = getattr(function, "__func__", function)
        self._globals: dict[str, Any] = getattr(function, "__globals__", {})
        self._locals: dict[str, Any] = {}
        if isinstance(function, types.FunctionType):
            self._locals = dict(inspect.getclosurevars(function).nonlocals)

    def resolve(self, annotation: Any) -> tuple[Any, str | None]:
        if annotation is EMPTY:
            return Any, None
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            return typing.get_type_hints(holder, self._globals, self._locals, include_extras=True)["it"], None
        except Exception as error:
            # Under `if TYPE_CHECKING:` the name does not exist at run time, and the usual one is Starlette's.
            text = (
                annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", repr(annotation))
            )
            if re.search(r"(?<![\w])Request\b", text):
                return Request, None
            return Any, f"its annotation {text!r} cannot be resolved: {error}"
