"""Who decides on the number of replicas: the load, or code of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field, field_serializer, field_validator

from headrace.config.model import ConfigModel, JsonObject, import_path_of
from headrace.config.problems import shown

_MODULE = "headrace.autoscaling_policy"
DEFAULT_POLICY = f"{_MODULE}:default_autoscaling_policy"
_DEFAULT_NAMES = ("default_autoscaling_policy", "replica_queue_length_autoscaling_policy")
_DEFAULT_PATHS = frozenset(
    {
        "default",
        *(f"{module}:{name}" for module in (_MODULE, "ray.serve.autoscaling_policy") for name in _DEFAULT_NAMES),
    }
)


class AutoscalingPolicy(ConfigModel):
    """Who decides: by default the load, or a policy of the user's.

    A policy is called with an `AutoscalingContext` and returns how many replicas it wants (a fraction is rounded up),
    or that and a dict that it finds in `ctx.policy_state` next time. The policy of an application is called with a
    dict of `DeploymentID` to context, and returns a dict of `DeploymentID` to number, or that and a dict of states.
    Factors, delays and bounds of the `autoscaling_config` apply to what it wants.

    Attributes:
        policy_function: a function, a class whose instances are called, or the import path of one.
        policy_kwargs: keyword arguments of the class's constructor; must be JSON-serializable.
    """

    title: ClassVar[str] = "wrong autoscaling policy"

    policy_function: str | Callable[..., Any] = DEFAULT_POLICY
    policy_kwargs: JsonObject = Field(default_factory=dict)

    @field_validator("policy_function", mode="before")
    @classmethod
    def _something_to_call(cls, function: Any) -> Any:
        if isinstance(function, str):
            if _with_colon(function) in _DEFAULT_PATHS:
                return DEFAULT_POLICY
            return import_path_of(function)
        if not callable(function):
            raise ValueError(
                f"must be a function, a class or an import path such as 'module:name', not {shown(function)}"
            )
        return DEFAULT_POLICY if _path_of(function) in _DEFAULT_PATHS else function

    @field_serializer("policy_function", when_used="json")
    def _as_path(self, function: str | Callable[..., Any]) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The import path, or for what has none what comes closest to it."""
        return self.policy_function if isinstance(self.policy_function, str) else _path_of(self.policy_function)

    @property
    def is_default(self) -> bool:
        """Whether the load decides."""
        return self.policy_function == DEFAULT_POLICY


def _path_of(function: Callable[..., Any]) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _with_colon(path: str) -> str:
    """Import paths may separate the name with a dot, too."""
    if ":" in path:
        return path
    module, _, name = path.rpartition(".")
    return f"{module}:{name}" if module else path
