"""From an import path (`module:app`) to the application that it names."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from headrace.build import what_it_is
from headrace.config.problems import config_error, nearest, problems_of
from headrace.deployments import Application
from headrace.exceptions import ApplicationBuildError, ConfigError

_INSTEAD_OF_RAYS = {"ray.serve.llm": "headrace.llm"}
"""Modules that config files written for Ray Serve name. Their builders would make applications of Ray's."""


def load_application(import_path: str, args: dict[str, Any] | None = None) -> Application[Any]:
    """Imports an application, or a function that builds one and calls it.

    Args:
        import_path: `module:attribute` or `module.attribute`; attributes may be dotted after a colon. Modules are
            looked for in the current folder first.
        args: arguments of the builder function. It takes one parameter, a dict; where that is annotated with a
            pydantic model, the arguments are validated into it. A function without parameters takes none.

    Raises:
        ApplicationBuildError: the module or attribute does not exist or cannot be imported, or is no application. Where
            user code raised, that exception is the cause.
        ConfigError: the arguments are not what the function takes.
    """
    module_name, attribute = _split(import_path)
    module_name = _INSTEAD_OF_RAYS.get(module_name, module_name)
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    module = _import(import_path, module_name)
    found: Any = module
    for part in attribute.split("."):
        owner = found
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ApplicationBuildError(_no_attribute(import_path, module, owner, part)) from None
    if isinstance(found, Application):
        if args:
            raise ConfigError(
                f"{import_path} is an application, which takes no arguments, but got {', '.join(sorted(args))}. "
                "Arguments go to a function that builds one."
            )
        return found
    if not inspect.isroutine(found):
        raise ApplicationBuildError(
            f"{import_path} must be an application, or a function that returns one, {what_it_is(found)}"
        )
    return _build(import_path, found, dict(args or {}))


def _split(import_path: str) -> tuple[str, str]:
    module, separator, attribute = import_path.rpartition(":" if ":" in import_path else ".")
    if not separator or not module or not attribute:
        raise ApplicationBuildError(f"{import_path!r} is no import path: write 'module:application'")
    if module.endswith(".py") or "/" in module or os.sep in module:
        dotted = module.removesuffix(".py").removeprefix("./").replace(os.sep, ".").replace("/", ".")
        raise ApplicationBuildError(
            f"{import_path!r}: an import path names a module, not a file; did you mean '{dotted}:{attribute}'?"
        )
    if module.startswith("."):
        raise ApplicationBuildError(f"{import_path!r}: a relative module has no package here; name it in full")
    return module, attribute


def _import(import_path: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ApplicationBuildError(_no_module(import_path, error.name)) from None
        raise ApplicationBuildError(
            f"{import_path}: importing {module_name!r} failed: {error}. Install it in the Python environment that "
            f"Headrace runs in ({sys.prefix})."
        ) from error
    except (Exception, SystemExit) as error:
        raise ApplicationBuildError(
            f"{import_path}: importing {module_name!r} raised {type(error).__name__}: {error}"
        ) from error


def _no_module(import_path: str, missing: str) -> str:
    parent, _, name = missing.rpartition(".")
    parent_module = sys.modules.get(parent) if parent else None
    if parent_module is not None and not hasattr(parent_module, "__path__"):
        return (
            f"{import_path}: {parent!r} is a module and no package, so there is no {missing!r} in it; "
            f"did you mean '{parent}:{name}'?"
        )
    places = list(parent_module.__path__) if parent_module is not None else [os.getcwd()]
    there = [module.name for module in pkgutil.iter_modules(places)]
    meant = nearest(name, there)
    if meant is not None:
        hint = f"did you mean '{parent}.{meant}'?" if parent else f"did you mean '{meant}'?"
    elif parent:
        hint = f"the package {parent!r} has {', '.join(sorted(there)) or 'no modules'}"
    else:
        hint = (
            f"modules are looked for in the current folder ({os.getcwd()}) and on sys.path. Change to the folder that "
            "has it, or set working_dir in the application's runtime_env."
        )
    return f"{import_path}: there is no module {missing!r}; {hint}"


def _no_attribute(import_path: str, module: ModuleType, owner: Any, missing: str) -> str:
    candidates = [name for name in dir(owner) if not name.startswith("_")]
    applications = [name for name in candidates if isinstance(getattr(owner, name, None), Application)]
    meant = nearest(missing, applications) or nearest(missing, candidates)
    where = f"module {module.__name__!r}" if owner is module else f"what {import_path} leads to"
    if meant is not None:
        hint = f"did you mean {meant!r}?"
    elif applications:
        hint = f"its applications are {', '.join(applications)}"
    else:
        hint = "assign one: app = MyDeployment.bind()"
    return f"{import_path}: {where} has no attribute {missing!r}; {hint}"


def _build(import_path: str, builder: Callable[..., Any], args: dict[str, Any]) -> Application[Any]:
    if inspect.iscoroutinefunction(builder):
        raise ApplicationBuildError(f"{import_path} is an async function: a builder is a plain function")
    arguments = _builder_arguments(import_path, builder, args)
    try:
        app = builder(*arguments)
    except (Exception, SystemExit) as error:
        raise ApplicationBuildError(f"{import_path} raised {type(error).__name__}: {error}") from error
    if not isinstance(app, Application):
        raise ApplicationBuildError(f"{import_path} must return an application, {what_it_is(app)}")
    return app


def _builder_arguments(import_path: str, builder: Callable[..., Any], args: dict[str, Any]) -> tuple[Any, ...]:
    parameters = list(inspect.signature(builder).parameters.values())
    if not parameters:
        if args:
            raise ConfigError(f"{import_path} takes no arguments, but got {', '.join(sorted(args))}")
        return ()
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    if len(required) > 1 or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        names = ", ".join(parameter.name for parameter in parameters)
        raise ApplicationBuildError(
            f"{import_path} takes the parameters {names}, but a builder takes one: a dict of arguments, or a pydantic "
            "model that they are validated into"
        )
    if not args and not required:
        return ()
    model = _model_of(builder, parameters[0])
    if model is None:
        return (args,)
    try:
        return (model.model_validate(args),)
    except ValidationError as error:
        raise config_error(f"arguments of {import_path}", problems_of(error, model)) from None


def _model_of(builder: Callable[..., Any], parameter: inspect.Parameter) -> type[BaseModel] | None:
    """The pydantic model that the parameter is annotated with, if it is one."""
    try:
        annotation = typing.get_type_hints(builder).get(parameter.name)
    except Exception:  # an annotation that resolves nowhere; a dict it is then
        annotation = parameter.annotation
    candidates = (annotation, *typing.get_args(annotation))
    return next(
        (candidate for candidate in candidates if isinstance(candidate, type) and issubclass(candidate, BaseModel)),
        None,
    )
