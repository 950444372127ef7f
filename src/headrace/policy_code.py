"""Autoscaling policies as code for another process. The controller only passes it on."""

from __future__ import annotations

import importlib
import inspect
import io
import logging
from collections.abc import Callable
from typing import Any

from headrace.config.autoscaling_policy import AutoscalingPolicy
from headrace.config.problems import nearest
from headrace.config.spec import PolicySpec, SourceFile
from headrace.exceptions import ConfigError, SerializationError
from headrace.fingerprint import fingerprint
from headrace.module_source import user_sources
from headrace.serialization import CodePickler, explain_unserializable

logger = logging.getLogger(__name__)


def policy_spec(policy: AutoscalingPolicy, field: str) -> PolicySpec:
    """A policy of the user's, for another process.

    Args:
        field: where it stands in the user's options, for errors.

    Raises:
        ConfigError: it cannot be imported, or is nothing to call.
        SerializationError: it cannot be sent to another process.
    """
    function, field = policy.policy_function, f"{field}.policy_function"
    if isinstance(function, str):
        function = _imported(function, field)
    kwargs = policy.policy_kwargs
    if kwargs and not inspect.isclass(function):
        logger.warning("%s: policy_kwargs go to the constructor of a class; %s is none", field, policy.name)
        kwargs = {}
    code, modules = _pickled(function, kwargs, field)
    return PolicySpec(
        name=policy.name,
        code=code,
        version=fingerprint((function, kwargs)),
        sources={name: SourceFile(path=path, source=source) for name, (path, source) in user_sources(*modules).items()},
    )


def _pickled(function: Callable[..., Any], kwargs: dict[str, Any], field: str) -> tuple[bytes, set[str]]:
    buffer = io.BytesIO()
    pickler = CodePickler(buffer)
    try:
        pickler.dump((function, kwargs))
    except Exception as error:
        name = getattr(function, "__qualname__", "the policy")
        raise SerializationError(f"{field}: {explain_unserializable(function, name, error)}") from error
    return buffer.getvalue(), pickler.modules


def _imported(path: str, field: str) -> Callable[..., Any]:
    module_name, _, attributes = path.rpartition(":" if ":" in path else ".")
    if module_name.partition(".")[0] == "ray":
        raise ConfigError(
            f"{field}: '{path}' is a policy of Ray's, which cannot run here; write one that is called with an "
            "AutoscalingContext and returns a number of replicas"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{field}: cannot import '{path}': {type(error).__name__}: {error}") from error
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            meant = nearest(name, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; did you mean '{meant}'?" if meant else ""
            raise ConfigError(f"{field}: there is no '{name}' in '{module_name}'{hint}") from None
    if not callable(found):
        raise ConfigError(f"{field}: '{path}' must be a function or a class, not of type {type(found).__name__}")
    function: Callable[..., Any] = found
    return function
