"""What may become a deployment: checks of the decorated class or function, each with the reason for its refusal."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from headrace.exceptions import ConfigError, ConfigTypeError

# Names that a handle has for itself, so that `handle.<name>` does not lead to the deployment's method.
HANDLE_NAMES = frozenset({"options", "remote"})


def check_target(target: Any) -> None:
    """Checks that `target` can be deployed.

    Raises:
        ConfigError: it is neither a class nor a function, or one of its special methods has the wrong shape.
    """
    if inspect.isclass(target):
        _check_class(target)
    elif not inspect.isroutine(target) and not hasattr(target, "__wrapped__"):
        raise ConfigTypeError(
            f"@deployment takes a class or a function, but got {_describe(target)}. "
            "Decorate the class, and pass its constructor arguments to .bind()."
        )


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} (an instance of {type(value).__qualname__})"


def default_name(target: Callable[..., Any]) -> str:
    """The name of a deployment that was not given one: its class's or function's."""
    name = getattr(target, "__name__", None)
    if not name or name == "<lambda>":
        raise ConfigError(f"{target!r} has no name that a deployment could take: pass @deployment(name=...)")
    return str(name)


def _check_class(cls: type) -> None:
    constructor = cls.__init__  # type: ignore[misc]
    if inspect.isgeneratorfunction(constructor) or inspect.isasyncgenfunction(constructor):
        raise ConfigError(f"{cls.__qualname__}.__init__ has a `yield`: a constructor cannot be a generator")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise ConfigError(f"{cls.__qualname__} is abstract, so no replica can be made of it: implement {missing}")
    _check_method(cls, "check_health", 0, "takes no arguments")
    _check_method(cls, "reconfigure", 1, "takes one argument, the user_config, and may take rank", at_least=True)
    for name in sorted(HANDLE_NAMES):
        if callable(inspect.getattr_static(cls, name, None)):
            warnings.warn(
                f"{cls.__qualname__}.{name} cannot be called as handle.{name}.remote(): handles have a method of that "
                f"name. Rename it, or call handle.options(method_name={name!r}).remote().",
                stacklevel=4,
            )


def _check_method(cls: type, name: str, arity: int, rule: str, at_least: bool = False) -> None:
    """Checks that method `name`, if there is one, can be called with `arity` positional arguments."""
    method = inspect.getattr_static(cls, name, None)
    if method is None:
        return
    if isinstance(method, staticmethod | classmethod):
        bound, given = getattr(cls, name), [None] * arity
    else:
        bound, given = method, [None] * (arity + 1)
    if not callable(bound):
        raise ConfigError(f"{cls.__qualname__}.{name} must be a method: Headrace calls it, and it {rule}")
    try:
        signature = inspect.signature(bound)
    except (TypeError, ValueError):  # implemented in C
        return
    rank = {"rank": None} if name == "reconfigure" and "rank" in signature.parameters else {}
    try:
        signature.bind(*given, **rank)
    except TypeError as error:
        raise ConfigError(f"{cls.__qualname__}.{name}{signature} {rule}, besides self ({error})") from None
    if at_least and inspect.isasyncgenfunction(method):
        raise ConfigError(f"{cls.__qualname__}.{name} has a `yield`: it must be a plain method, sync or async")


def check_arguments(target: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Checks the arguments of `.bind()` against the constructor, so that a mistake shows at once and not in a replica.

    Raises:
        ConfigError: a function was given arguments, or the constructor does not take these.
    """
    if not inspect.isclass(target):
        if args or kwargs:
            raise ConfigError(
                f"deployment {name!r} is a function, which has no constructor: .bind() takes no arguments here. "
                "Make it a class if it needs some."
            )
        return
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # a constructor implemented in C
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{name}.bind(): {error}. The constructor is {target.__name__}{signature}.") from None


def check_user_config(target: Callable[..., Any], name: str, user_config: Any) -> None:
    """Checks that a `user_config` has a method to go to.

    Raises:
        ConfigError: it is given, and the target has no `reconfigure`.
    """
    if user_config is None:
        return
    if not inspect.isclass(target):
        raise ConfigError(
            f"user_config: deployment {name!r} is a function, which cannot take it on. "
            "Make it a class with a method reconfigure(self, user_config)."
        )
    if not callable(getattr(target, "reconfigure", None)):
        raise ConfigError(
            f"user_config: class {target.__qualname__} of deployment {name!r} has no method "
            "reconfigure(self, user_config) to take it"
        )


def named_arguments(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arguments of `.bind()` with the names of the constructor's parameters, as far as they can be told."""
    try:
        bound = inspect.signature(target).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return [*((str(index), value) for index, value in enumerate(args)), *kwargs.items()]
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        match bound.signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                named.extend((f"{name}[{index}]", item) for index, item in enumerate(value))
            case inspect.Parameter.VAR_KEYWORD:
                named.extend(value.items())
            case _:
                named.append((name, value))
    return named
