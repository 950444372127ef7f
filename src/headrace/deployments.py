"""`@deployment`: a class or function with the options under which it is served, and `Application`: one with arguments.

Nothing here starts anything: a deployment is a description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, Generic, Literal, NoReturn, ParamSpec, Protocol, TypedDict, Unpack, cast, overload

from typing_extensions import TypeVar

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.deployment_options import BackpressureConfig, DeploymentOptions
from headrace.config.logging_config import LoggingConfig
from headrace.config.placement import DeploymentActorConfig, GangSchedulingConfig
from headrace.config.ray_actor_options import RayActorOptions
from headrace.config.request_router import RequestRouterConfig
from headrace.deployment_target import check_arguments, check_target, default_name
from headrace.exceptions import ConfigError

P = ParamSpec("P")
FunctionP = ParamSpec("FunctionP")
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True, default=Any)
Class = TypeVar("Class")
Result = TypeVar("Result")


class GivenOptions(TypedDict, total=False):
    """The options of `@deployment`, each only where it is given; `DeploymentOptions` has their meanings."""

    name: str | None
    num_replicas: int | Literal["auto"] | None
    max_ongoing_requests: int | None
    max_concurrent_sync: int | None
    max_queued_requests: int | None
    user_config: Any
    autoscaling_config: Mapping[str, Any] | AutoscalingConfig | None
    ray_actor_options: Mapping[str, Any] | RayActorOptions | None
    placement_group_bundles: Sequence[Mapping[str, float]] | None
    placement_group_strategy: str | None
    placement_group_bundle_label_selector: Sequence[Mapping[str, str]] | None
    max_replicas_per_node: int | None
    graceful_shutdown_wait_loop_s: float | None
    graceful_shutdown_timeout_s: float | None
    health_check_period_s: float | None
    health_check_timeout_s: float | None
    backpressure_config: Mapping[str, Any] | BackpressureConfig | None
    logging_config: Mapping[str, Any] | LoggingConfig | None
    request_router_config: Mapping[str, Any] | RequestRouterConfig | None
    max_constructor_retry_count: int | None
    gang_scheduling_config: Mapping[str, Any] | GangSchedulingConfig | None
    deployment_actors: Sequence[Mapping[str, Any] | DeploymentActorConfig] | None
    rolling_update_percentage: float | None
    max_surge_percent: int | None


class FunctionTarget(Protocol[FunctionP, R_co]):
    """What tells a function from a class to a type checker: a function has code of its own."""

    @property
    def __code__(self) -> CodeType: ...

    def __call__(self, *args: FunctionP.args, **kwargs: FunctionP.kwargs) -> R_co: ...


class FunctionInstance(Protocol[FunctionP, R_co]):
    """What a replica of a function deployment is: something to call with the function's parameters."""

    def __call__(self, *args: FunctionP.args, **kwargs: FunctionP.kwargs) -> R_co: ...


class Application(Generic[T_co]):
    """A deployment with the arguments of its constructor: what `run` takes, and what other deployments are bound to.

    Identity matters: one application that is bound into two parents is one deployment, which they share. `T_co` is the
    deployed class.
    """

    def __init__(self, bound_deployment: Deployment[..., T_co]) -> None:
        self._bound_deployment = bound_deployment

    @property
    def deployment(self) -> Deployment[..., T_co]:
        """The deployment, with `init_args` and `init_kwargs` set."""
        return self._bound_deployment

    def __getattr__(self, name: str) -> NoReturn:
        if name in {"remote", "options"}:
            raise AttributeError(
                f"an Application has no {name!r}: it is a description. `handle = serve.run(app)` gives a handle to it; "
                "inside the constructor of another deployment, its place is taken by one."
            )
        raise AttributeError(f"'Application' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"Application({self._bound_deployment.name!r})"


class Deployment(Generic[P, T_co]):
    """A class or function, and the options under which it is served.

    Made by the decorator `@deployment`. `P` are the constructor's parameters, `T_co` is the class. Deployments never
    change: `.options()` returns another one. They are equal if their options, code and arguments are.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        options: DeploymentOptions,
        init_args: tuple[Any, ...] = (),
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(target, Deployment):
            raise ConfigError(
                f"{target.name!r} is a deployment already: decorate it once, and change its options with "
                f"{target.name}.options(...)"
            )
        if isinstance(target, Application):
            raise ConfigError(f"{target!r} is bound already: @deployment takes the class or function itself")
        check_target(target)
        self._target = target
        self._name = options.name or default_name(target)
        self._options = options
        self._init_args = init_args
        self._init_kwargs = dict(init_kwargs or {})

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Application[T_co]:
        """An application: this deployment, with the arguments that its constructor gets in every replica.

        Applications among the arguments, at any depth, become handles to their deployments.

        Raises:
            ConfigError: the constructor does not take these arguments.
        """
        check_arguments(self._target, self._name, args, kwargs)
        return Application(self._replace(init_args=args, init_kwargs=kwargs))

    def options(
        self, func_or_class: Callable[..., Any] | None = None, **overrides: Unpack[GivenOptions]
    ) -> Deployment[P, T_co]:
        """A copy with some options replaced; those that are not named keep their values.

        `num_replicas` as a number and `autoscaling_config` exclude each other: the one named here replaces the other.

        Raises:
            ConfigError: an option is unknown, wrong, or does not go with another one.
        """
        _refuse_route_prefix(overrides)
        return self._replace(target=func_or_class, options=self._options.updated(**overrides))

    def _replace(
        self,
        *,
        target: Callable[..., Any] | None = None,
        options: DeploymentOptions | None = None,
        init_args: tuple[Any, ...] | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> Deployment[P, T_co]:
        return Deployment(
            self._target if target is None else target,
            self._options if options is None else options,
            self._init_args if init_args is None else init_args,
            self._init_kwargs if init_kwargs is None else init_kwargs,
        )

    @property
    def name(self) -> str:
        """Name of the deployment, unique in its application."""
        return self._name

    @property
    def version(self) -> None:
        """Always None, as in Ray Serve: what a redeploy restarts follows from code, arguments and options."""

    @property
    def func_or_class(self) -> Callable[..., Any]:
        """The undecorated class or function."""
        return self._target

    @property
    def deployment_options(self) -> DeploymentOptions:
        """All options, validated, with defaults filled in."""
        return self._options

    @property
    def num_replicas(self) -> int | None:
        """Number of replicas to run; None where `autoscaling_config` decides."""
        return self._options.num_replicas

    @property
    def user_config(self) -> Any:
        """What `reconfigure` gets."""
        return self._options.user_config

    @property
    def max_ongoing_requests(self) -> int:
        """How many requests a replica works on at once."""
        return self._options.max_ongoing_requests

    @property
    def max_queued_requests(self) -> int:
        """How many requests may wait at each caller; -1 for any number."""
        return self._options.max_queued_requests

    @property
    def backpressure_config(self) -> BackpressureConfig:
        """How a request that finds the queue full is answered over HTTP."""
        return self._options.backpressure_config

    @property
    def autoscaling_config(self) -> AutoscalingConfig | None:
        """Bounds and pace of autoscaling; None for a fixed number of replicas."""
        return self._options.autoscaling_config

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        """Resources and environment of each replica."""
        return self._options.ray_actor_options.model_dump(mode="json")

    @property
    def logging_config(self) -> LoggingConfig | None:
        """How the replicas log; None for the instance's way."""
        return self._options.logging_config

    @property
    def init_args(self) -> tuple[Any, ...]:
        """Positional arguments of the constructor; empty until `.bind()`."""
        return self._init_args

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the constructor; empty until `.bind()`."""
        return self._init_kwargs

    @property
    def route_prefix(self) -> NoReturn:
        raise ConfigError(_ROUTE_PREFIX)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(
            f"the deployment {self._name!r} cannot be called: its replicas make the instances. Use .bind(...) and "
            "serve.run(); for a plain instance in a test, call .func_or_class(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ConfigError(
            f"the deployment {self._name!r} cannot be a base class. Inherit from {self._name}.func_or_class, "
            "or decorate only the class that you deploy."
        )

    def __getattr__(self, name: str) -> NoReturn:
        target = self.__dict__.get("_target")
        if name in {"remote", "method"}:
            hint = ": it is a description. serve.run() returns the handle that has it"
        elif not name.startswith("_") and hasattr(target, name):
            hint = f"; the undecorated {getattr(target, '__name__', 'target')} has it: .func_or_class.{name}"
        else:
            hint = ""
        raise AttributeError(f"'Deployment' object has no attribute {name!r}{hint}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Deployment):
            return NotImplemented
        return bool(
            self._name == other._name
            and self._target == other._target
            and _effective(self._options) == _effective(other._options)
            and self._init_args == other._init_args
            and self._init_kwargs == other._init_kwargs
        )

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"Deployment(name={self._name})"


_ROUTE_PREFIX = "route_prefix: deployments have no route, applications do: serve.run(app, route_prefix='/path')"


def _refuse_route_prefix(given: Mapping[str, Any]) -> None:
    if "route_prefix" in given:
        raise ConfigError(_ROUTE_PREFIX)


def _effective(options: DeploymentOptions) -> dict[str, Any]:
    """The options as values: whether a default was given or left out, and where the name comes from, is no part."""
    return options.model_dump(exclude={"name"})


class DeploymentDecorator(Protocol):
    """`@deployment(...)` with the options given, waiting for a class or function."""

    @overload
    def __call__(
        self, target: FunctionTarget[FunctionP, Result], /
    ) -> Deployment[[], FunctionInstance[FunctionP, Result]]: ...
    @overload
    def __call__(self, target: Callable[P, Class], /) -> Deployment[P, Class]: ...


@overload
def deployment(
    func_or_class: FunctionTarget[FunctionP, Result], /
) -> Deployment[[], FunctionInstance[FunctionP, Result]]: ...
@overload
def deployment(func_or_class: Callable[P, Class], /) -> Deployment[P, Class]: ...
@overload
def deployment(func_or_class: None = None, /, **options: Unpack[GivenOptions]) -> DeploymentDecorator: ...
def deployment(func_or_class: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a class or function a deployment: `@deployment`, or `@deployment(num_replicas=2, ...)`.

    Options (`DeploymentOptions` describes each): `name` (default: the class's or function's), `num_replicas` (1, or
    "auto"), `max_ongoing_requests` (5), `max_concurrent_sync` (1; how many of these may run in `def` methods at once),
    `max_queued_requests` (-1, no limit), `user_config`, `autoscaling_config`,
    `ray_actor_options`, `placement_group_bundles`, `placement_group_strategy`, `placement_group_bundle_label_selector`,
    `max_replicas_per_node`, `graceful_shutdown_wait_loop_s` (2 seconds), `graceful_shutdown_timeout_s` (20),
    `health_check_period_s` (10), `health_check_timeout_s` (30), `backpressure_config`, `logging_config`,
    `request_router_config`, `max_constructor_retry_count` (20), `gang_scheduling_config`, `deployment_actors`,
    `rolling_update_percentage` (0.2), `max_surge_percent` (0).

    Raises:
        ConfigError: an option is unknown or wrong, or the class cannot be deployed.
    """
    _refuse_route_prefix(options)
    # Before there is a class, so that the error's line is the decorator's.
    validated = DeploymentOptions.from_user(**options)
    if func_or_class is not None:
        return Deployment(func_or_class, validated)

    def decorate(target: Callable[..., Any]) -> Deployment[..., Any]:
        return Deployment(target, validated)

    return cast(DeploymentDecorator, decorate)
