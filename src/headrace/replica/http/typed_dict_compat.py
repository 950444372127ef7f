"""`typing.TypedDict` for pydantic, which before Python 3.12 takes only that of `typing_extensions`."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any

import typing_extensions

# As a plain callable: type checkers want the fields of a typed dict to be written out.
_make_typed_dict: Any = typing_extensions.TypedDict


def with_typed_dicts_for_pydantic(annotation: Any) -> Any:
    """The annotation with every `typing.TypedDict` in it replaced by its equal from `typing_extensions`.

    Before Python 3.12 the standard library's typed dicts do not tell where a key was declared; which keys are required
    is here taken from what they do tell, and from `Required` and `NotRequired`.
    """
    return annotation if sys.version_info >= (3, 12) else _replaced(annotation, {})


def _replaced(annotation: Any, done: dict[Any, Any]) -> Any:
    if typing.is_typeddict(annotation):
        if annotation not in done:
            done[annotation] = annotation  # what refers to itself stays as it is
            done[annotation] = _equal_typed_dict(annotation, done)
        return done[annotation]
    arguments = typing.get_args(annotation)
    if not arguments or typing.get_origin(annotation) is typing.Literal:
        return annotation
    new = tuple(_replaced(argument, done) if not isinstance(argument, list) else argument for argument in arguments)
    if all(one is other for one, other in zip(new, arguments, strict=True)):
        return annotation
    if isinstance(annotation, types.UnionType):
        return typing.Union[new]  # noqa: UP007 (made at run time)
    if typing.get_origin(annotation) is typing.Annotated:
        return typing.Annotated[new]
    if isinstance(annotation, types.GenericAlias):
        return types.GenericAlias(typing.cast(type, annotation.__origin__), new)
    return annotation.copy_with(new)


def _equal_typed_dict(typed_dict: Any, done: dict[Any, Any]) -> Any:
    fields = {}
    for name, hint in typing.get_type_hints(typed_dict, include_extras=True).items():
        if typing.get_origin(hint) in (typing.Required, typing.NotRequired):
            fields[name] = hint.copy_with(tuple(_replaced(part, done) for part in typing.get_args(hint)))
        elif name in typed_dict.__required_keys__:
            fields[name] = typing.Required[_replaced(hint, done)]
        else:
            fields[name] = typing.NotRequired[_replaced(hint, done)]
    equal: Any = _make_typed_dict(typed_dict.__name__, fields)
    equal.__module__, equal.__qualname__, equal.__doc__ = (
        typed_dict.__module__,
        typed_dict.__qualname__,
        typed_dict.__doc__,
    )
    if hasattr(typed_dict, "__pydantic_config__"):
        equal.__pydantic_config__ = typed_dict.__pydantic_config__
    return equal
