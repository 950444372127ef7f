"""Running applications: what a driver calls."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from headrace import client as _client
from headrace.config.http_options import HTTPOptions, ProxyLocation, RestOptions
from headrace.config.instance import InstanceConfig
from headrace.config.logging_config import LoggingConfig
from headrace.config.spec import ApplicationSpec
from headrace.config.tracing_config import TracingConfig
from headrace.engine.starting import begin_instance, chosen_engine, job_runtime_env
from headrace.exceptions import ConfigError, HeadraceError
from headrace.handle import DEFAULT_APP, DeploymentHandle, set_driver_connector
from headrace.instance_status import ServeStatus, overview
from headrace.router.replica_context import current_replica

if TYPE_CHECKING:
    from headrace.config.ray_actor_options import RuntimeEnv
    from headrace.deployments import Application

T = TypeVar("T")

logger = logging.getLogger("headrace")

set_driver_connector(_client.hub_for_handles)


@dataclass
class RunTarget:
    """An application for `run_many`; the fields are `run`'s arguments."""

    target: Application[Any]
    name: str = DEFAULT_APP
    route_prefix: str | None = "/"
    logging_config: Mapping[str, Any] | LoggingConfig | None = None
    external_scaler_enabled: bool = False
    request_timeout_s: float | None = None


def start(
    proxy_location: str | ProxyLocation | None = None,
    http_options: Mapping[str, Any] | HTTPOptions | None = None,
    grpc_options: Mapping[str, Any] | None = None,
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    tracing_config: Mapping[str, Any] | TracingConfig | None = None,
    controller_options: Mapping[str, Any] | None = None,
    *,
    rest_options: Mapping[str, Any] | RestOptions | None = None,
    metrics_prefix: str | None = None,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    memory: int | None = None,
    resources: Mapping[str, float] | None = None,
    detached: bool | None = None,
    engine: str | None = None,
    address: str | None = None,
) -> None:
    """Start an instance with options, before the first `run`. Where one runs already, it stays as it is, and options
    that differ are warned of.

    Args:
        proxy_location: "EveryNode" (as None) or "HeadOnly": on which machines of a cluster proxies serve HTTP;
            "Disabled" for no HTTP.
        http_options: see HTTPOptions; `{"port": 9000}`.
        logging_config: see LoggingConfig.
        tracing_config: see TracingConfig.
        rest_options: where the REST API listens; see RestOptions.
        metrics_prefix: goes before the names of metrics, "" for nothing; None for `$HEADRACE_METRICS_PREFIX` or "ray_".
        num_cpus, num_gpus, memory, resources: what there is to give to replicas; None for what the machine has.
            On a Ray cluster its machines say that when they join.
        detached: it serves on after this process, as `headrace start` does. None: it does on a cluster, as Ray Serve
            does there, and on one machine it ends with this process.
        engine: "local" for this machine, "ray" for a Ray cluster. None for `$HEADRACE_ENGINE`; where that is not set,
            the cluster that this process is connected to (`ray.init()`, or as a job of it), else this machine.
        address: of the Ray cluster, as `ray.init` takes it. None or "auto" for the one that this machine is part of.

    Raises:
        ConfigError: an option is wrong, or not available on one machine.
        StartupError: a port is in use, no Ray cluster can be reached, …
    """
    for name, value in (
        ("grpc_options", grpc_options),
        ("controller_options", controller_options),
    ):
        if value:
            raise ConfigError(f"{name} is not available yet; leave it out")
    given_http = dict(http_options) if isinstance(http_options, Mapping) else http_options
    instance = InstanceConfig.from_user(
        proxy_location=proxy_location,
        http_options=given_http,
        rest_options=rest_options,
        logging_config=logging_config,
        tracing_config=tracing_config,
        metrics_prefix=metrics_prefix,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        memory=memory,
        resources=resources,
    )
    options: dict[str, Any] = {
        "detached": detached,
        "rest_port_given": rest_options is not None,
        "engine": engine,
        "address": address,
    }
    if detached and chosen_engine(engine) == "local":
        begin_instance(instance, **options).wait()
        return
    beginning = _client.Beginning(instance, **options)
    client = beginning.finish()
    if beginning.found:
        _warn_of_ignored_options(instance, client.config)


_GIVEN_AS = {
    "http": "http_options",
    "rest": "rest_options",
    "logging": "logging_config",
    "tracing": "tracing_config",
}


def _warn_of_ignored_options(asked: InstanceConfig, running: Mapping[str, Any]) -> None:
    """Options count when an instance starts; where it runs already, those that differ would be missed in silence."""
    differ = []
    for section, value in asked.model_dump(mode="json", exclude_unset=True, exclude_none=True).items():
        if section in _GIVEN_AS:
            has = running[section] or {}
            differ += [
                f"{_GIVEN_AS[section]}.{name}"
                for name, wanted in value.items()
                if has.get(name) != wanted and (name, wanted) != ("port", 0)
            ]
        elif value and running[section] != value:
            differ.append(section)
    if differ:
        logger.warning(
            "an instance of Headrace runs already, and stays as it is; ignored: %s. serve.shutdown() ends it",
            ", ".join(differ),
        )


_RAYS_OWN = (
    "allow_multiple",
    "cgroup_path",
    "configure_logging",
    "dashboard_host",
    "dashboard_port",
    "enable_resource_isolation",
    "ignore_reinit_error",
    "include_dashboard",
    "job_config",
    "labels",
    "local_mode",
    "log_to_driver",
    "logging_config",
    "logging_format",
    "logging_level",
    "namespace",
    "object_store_memory",
    "proxy_server_url",
    "system_reserved_cpu",
    "system_reserved_memory",
)

_runtime_env: Mapping[str, Any] | None = None


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    engine: str | None = None,
    **kwargs: Any,
) -> None:
    """Connect, as `ray.init()` does in applications written for Ray: to a running instance, or to a new one.

    Args:
        address: a session folder; None for what runs, or a new instance; "auto" for what runs. With `engine="ray"`, of
            the Ray cluster.
        num_cpus, num_gpus, resources: what there is to give to replicas, where an instance is started.
        runtime_env: `env_vars` and `working_dir` of all that this process runs from now on.
        engine: as in `start`.
        kwargs: Ray's other arguments, which have no meaning here.

    Raises:
        ConfigError: an argument is wrong, or is not one of Ray's.
        NotRunningError: `address` is "auto" or a folder, and nothing runs there.
    """
    from headrace.config.problems import nearest
    from headrace.config.ray_actor_options import RuntimeEnv

    global _runtime_env
    for name in kwargs:
        if name not in _RAYS_OWN and not name.startswith("_"):
            known = [*_RAYS_OWN, "address", "engine", "num_cpus", "num_gpus", "resources", "runtime_env"]
            hint = f"; did you mean {meant!r}?" if (meant := nearest(name, known)) else ""
            raise ConfigError(f"init() has no argument {name!r}{hint}")
    _runtime_env = None if runtime_env is None else RuntimeEnv(**runtime_env).model_dump(exclude_none=True)
    if chosen_engine(engine) == "ray":
        start(num_cpus=num_cpus, num_gpus=num_gpus, resources=resources, engine="ray", address=address)
        return
    if address not in (None, "auto", "local"):
        os.environ["HEADRACE_ADDRESS"] = str(address)
    if address not in (None, "local"):
        _client.find()
        return
    start(num_cpus=num_cpus, num_gpus=num_gpus, resources=resources)


def run(
    target: Application[T],
    blocking: bool = False,
    name: str = DEFAULT_APP,
    route_prefix: str | None = "/",
    logging_config: Mapping[str, Any] | LoggingConfig | None = None,
    local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Mapping[str, Any] | None = None,
    *,
    request_timeout_s: float | None = None,
    _local_testing_mode: bool = False,
) -> DeploymentHandle[T]:
    """Run an application and wait until all of its deployments are healthy.

    An application of the same name is replaced, others are left alone. The instance is the one that runs on this
    machine, or a new one that ends with this process.

    Args:
        target: what `.bind()` returned.
        blocking: stay here until Ctrl-C or SIGTERM, then answer what is in flight and end.
        name: of the application, unique in the instance.
        route_prefix: HTTP paths that begin with it belong to the application; None for no HTTP.
        logging_config: of all its deployments.
        local_testing_mode: everything in this process: no HTTP, no processes, for unit tests and debuggers.
        external_scaler_enabled: its numbers of replicas are set over the REST API. Excludes autoscaling.
        request_timeout_s: how long its HTTP requests may take, seconds; None for what the instance's HTTP options say.

    Returns:
        A handle to the ingress deployment.

    Raises:
        ConfigError: an option is wrong.
        DeploymentFailedError: a constructor raised, or something cannot be placed.
        StartupError: the instance cannot start.
    """
    one = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled, request_timeout_s)
    local = local_testing_mode or _local_testing_mode
    return run_many([one], blocking, _local_testing_mode=local, controller_options=controller_options)[0]


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: Mapping[str, Any] | None = None,
) -> list[DeploymentHandle[Any]]:
    """Run several applications together; see `run`.

    Args:
        wait_for_applications_running: False returns as soon as they are accepted.

    Raises:
        ConfigError: none is given, or two share a name or a route prefix; and as `run`.
    """
    _check_targets(targets)
    if _local_testing_mode:
        from headrace.local_testing import make_local_deployment_handle

        return [make_local_deployment_handle(target.target, target.name) for target in targets]
    if controller_options:
        raise ConfigError("controller_options is not available yet; leave it out")
    beginning = _client.Beginning()  # starts, if need be, while the applications are built
    try:
        specs = _build(targets)
        client = beginning.finish()
    except BaseException:
        beginning.give_up()
        raise
    names = [spec.name for spec in specs]
    if blocking:
        _take_sigterm_for_ctrl_c()
    try:
        client.deploy(specs)
        if wait_for_applications_running:
            client.wait_running(names)
        if blocking:
            _wait_for_end(client)
    except KeyboardInterrupt:
        if not blocking:
            raise
    if blocking and client.owned:
        client.shutdown()
    return [DeploymentHandle(spec.ingress, spec.name) for spec in specs]


def _build(targets: Sequence[RunTarget]) -> list[ApplicationSpec]:
    from headrace.build import build_application

    environment = _environment()
    specs = [
        build_application(
            target.target,
            name=target.name,
            route_prefix=target.route_prefix,
            runtime_env=environment,
            logging_config=target.logging_config,
            request_timeout_s=target.request_timeout_s,
            external_scaler_enabled=target.external_scaler_enabled,
        )
        for target in targets
    ]
    for spec in specs:
        spec.runtime_env = {**spec.runtime_env, "sys_path": _sys_path()}
        spec.runtime_env.setdefault("working_dir", os.getcwd())
    return specs


def _environment() -> RuntimeEnv:
    """What `init` was given, inside the environment of this process's Ray job, if it is one."""
    from headrace.config.ray_actor_options import RuntimeEnv

    job = {name: value for name, value in job_runtime_env().items() if name in RuntimeEnv.model_fields}
    return RuntimeEnv(**(_runtime_env or {})).over(RuntimeEnv(**job))


def _check_targets(targets: Sequence[RunTarget]) -> None:
    if not targets:
        raise ConfigError("run_many() needs at least one application")
    for attribute, what in (("name", "name"), ("route_prefix", "route prefix")):
        values = [getattr(target, attribute) for target in targets if getattr(target, attribute) is not None]
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"two applications have the {what} {value!r}; each needs its own")


def _sys_path() -> list[str]:
    """Where this process finds modules, for its replicas to find the same; the empty entry is its current folder."""
    return [os.path.abspath(path) if path else os.getcwd() for path in sys.path]


def _take_sigterm_for_ctrl_c() -> None:
    """A container's runtime ends a script with SIGTERM: what is in flight is to be answered then too."""
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _wait_for_end(client: _client.Client) -> None:
    while client.alive:
        threading.Event().wait(1.0)


def delete(name: str, _blocking: bool = True) -> None:
    """Delete an application: its requests in flight are answered, then its replicas end.

    Raises:
        NotRunningError: no instance runs.
    """
    _stop_local(name)
    client = _client.find()
    client.delete([name])
    if _blocking:
        client.wait_until(lambda status: not status.applications, [name])


def rollback(name: str = DEFAULT_APP, to: int | None = None, _blocking: bool = True) -> None:
    """Return to an earlier deploy of an application, with its code, arguments and options. It is rolled out like any
    other update.

    Args:
        name: the application's.
        to: number of the deploy, as `headrace history` tells them; None for the last one before the current one that
            ran in full number. After a rollback that is meant from the deploy that was brought back: asking again
            goes further back.

    Raises:
        ConfigError: there is no such application, or no deploy to return to.
        DeploymentFailedError: what was deployed then does not come up any more.
        NotRunningError: no instance runs.
    """
    client = _client.find()
    client.rollback(name, to)
    if _blocking:
        client.wait_running([name])


def status() -> ServeStatus:
    """What the applications and their deployments are doing.

    Raises:
        NotRunningError: no instance runs.
    """
    return overview(_client.find().status())


def shutdown() -> None:
    """End the instance and everything in it, after what is in flight has been answered. Does nothing where none runs.

    Applications of `local_testing_mode` end too.
    """
    _stop_local()
    try:
        client = _client.find()
    except HeadraceError:
        return
    client.shutdown()


def _stop_local(name: str | None = None) -> None:
    local_testing = sys.modules.get("headrace.local_testing")
    if local_testing is not None:
        local_testing.stop_local_applications(name)


async def shutdown_async() -> None:
    """`shutdown` for code on an event loop, which it does not block."""
    import asyncio

    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle[Any]:
    """A handle to an application's ingress deployment.

    Raises:
        HeadraceError: there is no such application.
    """
    applications = {application.name: application for application in _client.find().status().applications}
    if name not in applications:
        raise HeadraceError(f"application {name!r} does not exist; {_hint(name, applications)}")
    return DeploymentHandle(applications[name].ingress, name)


def _hint(name: str, names: Iterable[str]) -> str:
    from headrace.config.problems import nearest

    meant = nearest(name, names)
    return f"did you mean {meant!r}?" if meant else f"there are {', '.join(sorted(names)) or 'none'}"


def get_deployment_handle(
    deployment_name: str, app_name: str | None = None, _check_exists: bool = True
) -> DeploymentHandle[Any]:
    """A handle to any deployment.

    Args:
        deployment_name: its name.
        app_name: its application's; None within a replica for the replica's own, elsewhere for "default".

    Raises:
        HeadraceError: there is no such deployment.
    """
    replica = current_replica()
    if app_name is None:
        app_name = replica.app_name if replica is not None else DEFAULT_APP
    if _check_exists and replica is None:
        applications = {application.name: application for application in _client.find().status().applications}
        where = f"deployment {deployment_name!r} does not exist in application {app_name!r}"
        if app_name not in applications:
            raise HeadraceError(f"{where}, for there is no such application; {_hint(app_name, applications)}")
        names = [deployment.name for deployment in applications[app_name].deployments]
        if deployment_name not in names:
            raise HeadraceError(f"{where}; {_hint(deployment_name, names)}")
    return DeploymentHandle(deployment_name, app_name)
