"""Where an instance is to run, and how it is started or found there."""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headrace.engine.session import Session, find_current
from headrace.exceptions import ConfigError, StartupError

if TYPE_CHECKING:
    from headrace.config.instance import InstanceConfig
    from headrace.engine.root_config import RootConfig

ENGINE_VARIABLE = "HEADRACE_ENGINE"
EngineName = Literal["local", "ray"]

# Set by `ray job submit` for the script that it runs.
_RAY_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class Handle(Protocol):
    """An instance that ends with this process."""

    @property
    def alive(self) -> bool: ...

    def stop(self, timeout_s: float = 10.0) -> None: ...


class Pending(Protocol):
    """An instance that is being started; other work can be done before `wait`."""

    def wait(self) -> tuple[Session, Handle | None]:
        """Wait until it accepts connections.

        Returns:
            Its session folder on this machine; and, if it ends with this process, a handle on it.

        Raises:
            StartupError: it cannot start.
        """
        ...

    def give_up(self) -> None:
        """End it, whatever state it is in."""
        ...


def chosen_engine(engine: str | None = None) -> EngineName:
    """Where an instance is to run: as is said, as `$HEADRACE_ENGINE` says, or on the Ray cluster that this process is
    connected to or was sent to as a job; else on this machine.

    Raises:
        ConfigError: there is no such engine.
    """
    if engine is None:
        engine = os.environ.get(ENGINE_VARIABLE) or None
        option = f"${ENGINE_VARIABLE}"
    else:
        option = "engine"
    if engine is None:
        return "ray" if _on_ray() else "local"
    if engine == "local":
        return "local"
    if engine == "ray":
        return "ray"
    raise ConfigError(f"{option}: must be 'local' or 'ray', not {engine!r}")


def _on_ray() -> bool:
    ray = sys.modules.get("ray")  # who is connected has imported it
    if ray is not None and getattr(ray, "is_initialized", lambda: False)():
        return True
    return _RAY_JOB_VARIABLE in os.environ and "RAY_ADDRESS" in os.environ


def find_instance(engine: str | None = None, address: str | None = None) -> Session | None:
    """The instance that is meant when none is named: `$HEADRACE_ADDRESS`, or on a Ray cluster if that is the engine, or
    what runs on this machine without a driver. None if there is none.

    Raises:
        NotRunningError: `$HEADRACE_ADDRESS` names no running instance.
        StartupError: no Ray cluster can be reached.
    """
    if os.environ.get("HEADRACE_ADDRESS") or chosen_engine(engine) == "local":
        return find_current()
    found: Session | None = _ray_cluster().find(address)
    return found


def begin_instance(
    instance: InstanceConfig,
    *,
    detached: bool | None = None,
    rest_port_given: bool = False,
    engine: str | None = None,
    address: str | None = None,
) -> Pending:
    """Start an instance and do not wait for it.

    Args:
        detached: it serves on when this process has ended; None for what is usual: on a cluster it does, on one machine
            it does not.
        rest_port_given: somebody chose the REST port, so that taking another one would surprise.
        engine: "local" or "ray"; None for `chosen_engine`.
        address: of the Ray cluster; None for the one that this machine is part of.

    Raises:
        ConfigError: an option does not go with the engine.
        StartupError: what the environment says is wrong, no process can be started, or no Ray cluster can be reached.
    """
    if chosen_engine(engine) == "local":
        if address is not None:
            raise ConfigError("address: names a Ray cluster, so it needs engine='ray'")
        return _PendingHere(root_config(instance, detached=bool(detached), rest_port_given=rest_port_given))
    for name in ("num_cpus", "num_gpus", "memory", "resources"):
        if getattr(instance, name):
            raise ConfigError(
                f"{name}: is not for engine='ray', where each machine says what it has when it joins the cluster: "
                "'ray start --num-cpus … --num-gpus … --resources …'"
            )
    cluster = _ray_cluster()
    pending: Pending = cluster.PendingInstance(
        address,
        cluster.Wanted(
            instance=instance.model_dump(mode="json"),
            rest_port_given=rest_port_given,
            rest_token=_rest_token(instance.rest.host),
            detached=detached is not False,
        ),
    )
    return pending


def job_runtime_env() -> dict[str, Any]:
    """The runtime environment of this process's Ray job, if it is one: what it deploys runs in the same."""
    return dict(_ray_cluster().job_runtime_env()) if _on_ray() else {}


def _rest_token(host: str) -> str | None:
    """One that all machines of a cluster know, where the REST API listens to other machines and none was chosen."""
    from headrace.config.rest_token import rest_token

    if rest_token() is not None or host in ("127.0.0.1", "::1", "localhost"):
        return None
    return secrets.token_urlsafe(32)


def _ray_cluster() -> Any:
    try:
        import headrace.engine.ray.cluster as cluster
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise StartupError(
            "engine 'ray' needs Ray, which is not installed here: pip install 'headrace[ray]' on every machine of the "
            "cluster"
        ) from error
    return cluster


class _PendingHere:
    """A root on this machine."""

    def __init__(self, config: RootConfig) -> None:
        from headrace.engine.launch import begin_launch

        self._detached = config.detached
        self._root = begin_launch(config)

    def wait(self) -> tuple[Session, Handle | None]:
        handle = self._root.wait()
        return handle.session, None if self._detached else handle

    def give_up(self) -> None:
        self._root.give_up()


def root_config(instance: InstanceConfig, *, detached: bool = False, rest_port_given: bool = False) -> RootConfig:
    """What to start a root on this machine with."""
    from headrace.config.tracing_config import opentelemetry_modules
    from headrace.engine.root_config import WARM, RootConfig

    http = instance.http if instance.http is not None and instance.http.enabled else None
    return RootConfig(
        http_host=http.host if http is not None else None,
        http_port=http.port if http is not None else 0,
        num_proxies=http.num_proxies if http is not None else 0,
        rest_host=instance.rest.host,
        rest_port=instance.rest.port,
        rest_port_fallback=not rest_port_given,
        instance=instance.model_dump(mode="json"),
        detached=detached,
        warm=(*WARM, *opentelemetry_modules(instance.tracing)),
    )
