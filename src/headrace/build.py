"""From an application as the user wrote it to the spec that the controller deploys. Pure: nothing is started."""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.application_graph import HandlePickler, Node, walk
from headrace.config.deployment_options import RESTARTING_OPTIONS, DeploymentOptions
from headrace.config.logging_config import LoggingConfig
from headrace.config.problems import nearest
from headrace.config.ray_actor_options import RuntimeEnv
from headrace.config.route_prefix import check_route_prefix
from headrace.config.spec import ApplicationSpec, DeploymentSpec, PolicySpec, SourceFile
from headrace.deployment_target import check_user_config, named_arguments
from headrace.deployments import Application, Deployment
from headrace.exceptions import ConfigError, SerializationError
from headrace.fingerprint import fingerprint
from headrace.handle import DeploymentHandle
from headrace.module_source import user_sources
from headrace.serialization import explain_unserializable

if TYPE_CHECKING:
    from headrace.config.autoscaling_policy import AutoscalingPolicy
    from headrace.config.schema import DeploymentOverride

_SECRET_WORDS = ("credential", "key", "password", "secret", "token")


def build_application(
    app: Application[Any],
    *,
    name: str,
    route_prefix: str | None,
    runtime_env: Mapping[str, Any] | RuntimeEnv | None = None,
    config: dict[str, Any] | None = None,
    overrides: Iterable[DeploymentOverride | Mapping[str, Any]] = (),
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    external_scaler_enabled: bool = False,
    autoscaling_policy: AutoscalingPolicy | None = None,
    request_timeout_s: float | None = None,
) -> ApplicationSpec:
    """Finds all deployments of an application and writes them down for the controller.

    Args:
        app: the ingress deployment with its arguments; applications anywhere in them become handles.
        name: the application's name.
        route_prefix: under which the ingress deployment answers; None for no HTTP.
        runtime_env: environment of all its replicas.
        config: the declarative config that it comes from; kept for `status`.
        overrides: options by deployment name that win over those in the code.
        logging_config: how deployments log that have no `logging_config` of their own.
        request_timeout_s: how long its HTTP requests may take, seconds; None for what the instance's options say.
        external_scaler_enabled: the numbers of replicas are set over the REST API. Excludes autoscaling.
        autoscaling_policy: decides for all deployments that scale themselves, in place of their own policies.

    Raises:
        ConfigError: an option, override or name is wrong.
        ApplicationBuildError: deployments call each other in a circle.
        SerializationError: code or an argument cannot be sent to another process.
    """
    if not isinstance(app, Application):
        raise ConfigError(f"an application is needed, {what_it_is(app)}")
    if not name or "#" in name:
        raise ConfigError(f"name: an application's name must not be empty and must not contain '#', not be {name!r}")
    _check_request_timeout(request_timeout_s)
    environment = _runtime_env(runtime_env)
    nodes = walk(app)
    names = {node.application: node.name for node in nodes}
    options = _options(nodes, overrides, logging_config)
    if external_scaler_enabled:
        _refuse_two_scalers(options)
    if autoscaling_policy is not None and not any(of.autoscaling_config is not None for of in options.values()):
        raise ConfigError(
            "autoscaling_policy: decides for deployments that have an autoscaling_config, and this application has "
            "none; give one to those that it shall decide for, or remove it"
        )
    specs = []
    for node in nodes:
        check_user_config(node.deployment.func_or_class, node.name, options[node.name].user_config)
        code, modules = _pickle(node, name, names)
        specs.append(
            DeploymentSpec(
                app=name,
                name=node.name,
                options=options[node.name].model_dump(mode="json"),
                code=code,
                version=_version(node, names, options[node.name], environment, code),
                description=_description(node, names),
                sources=_sources(modules, options[node.name]),
                ingress=node.application is app,
                policy=_policy_of(options[node.name]),
            )
        )
    return ApplicationSpec(
        name=name,
        route_prefix=check_route_prefix(route_prefix),
        ingress=names[app],
        deployments=specs,
        runtime_env=environment,
        config=config,
        request_timeout_s=request_timeout_s,
        external_scaler_enabled=external_scaler_enabled,
        policy=_policy(autoscaling_policy, "autoscaling_policy") if autoscaling_policy is not None else None,
    )


def _refuse_two_scalers(options: Mapping[str, DeploymentOptions]) -> None:
    for name, of_deployment in options.items():
        if of_deployment.autoscaling_config is not None:
            raise ConfigError(
                f"external_scaler_enabled: excludes the autoscaling_config of deployment '{name}'; remove one of them"
            )


def _policy_of(options: DeploymentOptions) -> PolicySpec | None:
    scaling = options.autoscaling_config
    if scaling is None:
        return None
    policy = _policy(scaling.policy, f"deployment '{options.name}': autoscaling_config.policy")
    if policy is not None and options.ray_actor_options.runtime_env.working_dir is not None:
        policy.sources = {}  # as for the deployment's own code
    return policy


def _policy(policy: AutoscalingPolicy, field: str) -> PolicySpec | None:
    if policy.is_default:
        return None
    from headrace.policy_code import policy_spec  # few applications need it, and all want to start soon

    return policy_spec(policy, field)


def _check_request_timeout(given: Any) -> None:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is not None and not (number and 0 < given < math.inf):
        raise ConfigError(f"request_timeout_s: must be a positive number of seconds, or None, not {_short(given)}")


def what_it_is(value: Any) -> str:
    """Half a sentence on a value that should have been an application."""
    if isinstance(value, Deployment):
        return f"but {value.name!r} is a deployment that nobody has bound: use {value.name}.bind(...)"
    if isinstance(value, DeploymentHandle):
        return f"but this is a handle to {value.deployment_name!r}, which runs already"
    if inspect.isclass(value):
        return f"but {value.__name__!r} is a plain class: decorate it with @serve.deployment, and bind it"
    if inspect.isroutine(value):
        return f"but {value.__name__!r} is a function: call it if it builds an application, or decorate and bind it"
    return f"but this is {_short(value)}, of type {type(value).__name__}"


def _runtime_env(given: Mapping[str, Any] | RuntimeEnv | None) -> dict[str, Any]:
    runtime_env = given if isinstance(given, RuntimeEnv) else RuntimeEnv(**(given or {}))
    environment = runtime_env.model_dump(mode="json", exclude_none=True)
    if runtime_env.folder is not None:
        environment["working_dir"] = os.path.abspath(runtime_env.folder)
    # Replicas find the modules that this process finds.
    environment["sys_path"] = list(dict.fromkeys(os.path.abspath(path) for path in sys.path))
    return environment


def _options(
    nodes: list[Node],
    overrides: Iterable[DeploymentOverride | Mapping[str, Any]],
    logging_config: Mapping[str, Any] | LoggingConfig | None,
) -> dict[str, DeploymentOptions]:
    """The options of each deployment by name: those in the code, with the overrides on top."""
    options = {node.name: node.deployment.deployment_options for node in nodes}
    for given in overrides:
        # Imported here, for it is a driver's only use of the schema, and takes its time.
        from headrace.config.schema import DeploymentOverride

        override = given if isinstance(given, DeploymentOverride) else DeploymentOverride(**given)
        if override.name not in options:
            meant = nearest(override.name, options)
            hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(sorted(options))}"
            raise ConfigError(f"deployments: the application has no deployment {override.name!r}; {hint}")
        options[override.name] = options[override.name].updated(**override.options())
    if logging_config is not None:
        if not isinstance(logging_config, LoggingConfig):
            logging_config = LoggingConfig(**logging_config)
        for name, of_deployment in options.items():
            if of_deployment.logging_config is None:
                options[name] = of_deployment.updated(logging_config=logging_config)
    return {name: of_deployment.model_copy(update={"name": name}) for name, of_deployment in options.items()}


def _pickle(node: Node, app_name: str, names: Mapping[Application[Any], str]) -> tuple[bytes, set[str]]:
    """The deployment's code and arguments, and the names of the modules that they refer to."""
    deployment, buffer = node.deployment, io.BytesIO()
    target = deployment.func_or_class

    def handle_of(application: Application[Any]) -> DeploymentHandle[Any] | None:
        # Code that travels by value may name applications that are no part of this one.
        return DeploymentHandle(names[application], app_name) if application in names else None

    pickler = HandlePickler(buffer, handle_of)
    try:
        pickler.dump((target, deployment.init_args, deployment.init_kwargs))
    except Exception as error:
        # The walk has pickled the arguments already, so the code is what is left.
        explanation = explain_unserializable(target, getattr(target, "__qualname__", node.name), error)
        raise SerializationError(f"deployment {node.name!r}: {explanation}") from error
    return buffer.getvalue(), pickler.modules


def _sources(modules: set[str], options: DeploymentOptions) -> dict[str, SourceFile]:
    """The user's modules as they are now, for replicas that start later."""
    if options.ray_actor_options.runtime_env.working_dir is not None:
        return {}  # the code is to be taken from there, whatever it is here
    return {name: SourceFile(path=path, source=source) for name, (path, source) in user_sources(*modules).items()}


def _version(
    node: Node,
    names: Mapping[Application[Any], str],
    options: DeploymentOptions,
    environment: Mapping[str, Any],
    code: bytes,
) -> str:
    """What replicas of the deployment are made of, as a digest. Equal versions need no restart on a redeploy."""

    def replace(value: Any) -> Any:
        # A callee counts by name only: its own changes do not restart its callers.
        return ("application", names[value]) if isinstance(value, Application) and value in names else value

    deployment = node.deployment
    process = {
        "options": options.model_dump(mode="json", include=set(RESTARTING_OPTIONS)),
        "env_vars": environment.get("env_vars"),
        "working_dir": environment.get("working_dir"),
    }
    parts = (deployment.func_or_class, deployment.init_args, deployment.init_kwargs, process)
    try:
        return fingerprint(parts, replace)
    except Exception:
        # A value that pickles by other means than `__reduce_ex__`. The pickle's bytes may differ from one build to the
        # next, which costs a restart of replicas that could have stayed.
        return hashlib.blake2b(code + repr(process).encode(), digest_size=16).hexdigest()


def _description(node: Node, names: Mapping[Application[Any], str]) -> dict[str, Any]:
    deployment = node.deployment
    target: Callable[..., Any] = deployment.func_or_class
    arguments = named_arguments(target, deployment.init_args, deployment.init_kwargs)
    return {
        "callable": f"{target.__module__}:{getattr(target, '__qualname__', deployment.name)}",
        "doc": next(iter((inspect.getdoc(target) or "").splitlines()), ""),
        "arguments": {name: _describe_argument(name, value, names) for name, value in arguments},
        "calls": [names[child] for child in node.children],
    }


def _describe_argument(name: str, value: Any, names: Mapping[Application[Any], str]) -> str:
    # Descriptions are shown in status pages and dashboards.
    return "…" if any(word in name.lower() for word in _SECRET_WORDS) else _ShortRepr(names).repr(value)


def _short(value: Any) -> str:
    return _ShortRepr({}).repr(value)


class _ShortRepr(reprlib.Repr):
    """Cuts what is long, and shows applications as the handles that they become."""

    def __init__(self, names: Mapping[Application[Any], str]) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self._names = names

    def repr_Application(self, application: Application[Any], _level: int) -> str:  # found by the type's name
        return f"<handle to {self._names.get(application, application.deployment.name)}>"
