"""A RayService for KubeRay: a Ray cluster of pods with Headrace on it, and the config that it serves."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from headrace.config.model import Flag, PositiveInt
from headrace.config.problems import mistake, shown
from headrace.exceptions import ConfigError
from headrace.kubernetes.fields import Memory, Pods, Quantity, amount
from headrace.kubernetes.pod import SETTLE_S, PodOptions, container, http_probe, metadata, pod_spec, resources
from headrace.kubernetes.served_config import ServedConfig

REST_PORT = 8265
"""Of the container's port `dashboard`: where KubeRay sends the config and asks how it is."""

RAY_DASHBOARD_PORT = 8266
"""Where Ray's own dashboard is instead: jobs are submitted there."""

RAY_AGENT_PORT = 52365
"""Where Ray tells of the health of each of its nodes; KubeRay's default."""

LONGEST_NAME = 47
"""KubeRay makes longer names of it, which may have 63 characters."""

# `eval`, as KubeRay's command is written for a shell: it holds quotes and names of variables.
_WORKER_SCRIPT = """\
ulimit -n "${RAY_START_ULIMIT_OPEN_FILES:-65536}"
eval "exec $KUBERAY_GEN_RAY_START_CMD"
"""

# Headrace comes after Ray, and a pod where it cannot start ends: `$$` is Ray's process once the last line has begun.
_HEAD_SCRIPT = """\
ulimit -n "${{RAY_START_ULIMIT_OPEN_FILES:-65536}}"
start_headrace() {{
  until ray health-check --address "127.0.0.1:$RAY_PORT" > /dev/null 2>&1; do sleep 1; done
  {start}
}}
(start_headrace || kill $$) &
eval "exec $KUBERAY_GEN_RAY_START_CMD"
"""


class RayServiceOptions(PodOptions):
    """Options of a RayService; those of `PodOptions` are for the pods of the workers.

    Attributes:
        workers: pods that run replicas: the least and the most; what is between follows from what replicas ask for.
            0 for none: replicas run on the head then.
        head_cpus, head_memory: of the head's pod.
        idle_timeout_s: how long a worker's pod has nothing to do before it is taken away, seconds.
        ray_version: of the image. KubeRay goes by it.
        gcs_fault_tolerance: a Redis, `host:port`, in which Ray keeps the cluster's state, so that it survives the
            head's pod; None: it does not.
        redis_secret: Secret with its password, `name:key`; None for none.
        upgrade: what a change of the pods does: "cluster" makes a second cluster, and it gets all requests once it is
            ready; "incremental" moves replicas and requests to it in steps; "none" does nothing.
        gateway_class, step_percent, surge_percent, step_interval_s: of an incremental upgrade: the GatewayClass that
            splits requests; how many of them move at a time; how many replicas more than needed there may be meanwhile;
            seconds between two steps.
        exclude_head: the head's pod takes no requests.
    """

    title: ClassVar[str] = "wrong RayService"

    workers: Pods = (1, 1)
    head_cpus: Quantity = "2"
    head_memory: Memory = "8Gi"
    idle_timeout_s: PositiveInt = 300
    ray_version: str = "2.60.0"
    gcs_fault_tolerance: str | None = None
    redis_secret: str | None = None
    upgrade: Literal["cluster", "incremental", "none"] = "cluster"
    gateway_class: str | None = None
    step_percent: int = Field(default=10, strict=True, ge=1, le=100)
    surge_percent: int = Field(default=100, strict=True, ge=1, le=100)
    step_interval_s: PositiveInt = 30
    exclude_head: Flag = False

    @field_validator("name")
    @classmethod
    def _short_enough_for_kuberay(cls, name: str) -> str:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"must have at most {LONGEST_NAME} characters, not {len(name)}")
        return name

    @field_validator("ray_version")
    @classmethod
    def _a_version(cls, version: str) -> str:
        numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)\S*", version)
        if numbers is None:
            raise ValueError(f"must be a version such as '2.60.0', not {shown(version)}")
        if (int(numbers[1]), int(numbers[2])) < (2, 53):
            raise ValueError(f"must be 2.53.0 at least, not {shown(version)}: earlier ones tell of no health over HTTP")
        return version

    @field_validator("gcs_fault_tolerance")
    @classmethod
    def _an_address(cls, address: str | None) -> str | None:
        if address is None:
            return None
        host, separator, port = address.removeprefix("redis://").removeprefix("rediss://").rpartition(":")
        if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
            raise ValueError(f"must be HOST:PORT, such as 'redis:6379', not {shown(address)}")
        return address

    @field_validator("redis_secret")
    @classmethod
    def _a_name_and_a_key(cls, secret: str | None) -> str | None:
        if secret is not None and not re.fullmatch(r"[-a-z0-9.]+:[-._a-zA-Z0-9]+", secret):
            raise ValueError(f"must be NAME:KEY, such as 'redis:password', not {shown(secret)}")
        return secret

    @model_validator(mode="after")
    def _what_belongs_together(self) -> Self:
        if self.redis_secret is not None and self.gcs_fault_tolerance is None:
            raise mistake("is of no use without gcs_fault_tolerance; add it", "redis_secret")
        if self.upgrade == "incremental" and self.gateway_class is None:
            raise mistake("is needed for upgrade='incremental': what splits the requests", "gateway_class")
        if self.upgrade == "incremental" and self.workers[1] == 0:
            raise mistake("must be 1 at least for upgrade='incremental': pods follow the replicas", "workers")
        if self.step_percent > self.surge_percent:
            raise mistake(f"must be at most surge_percent={self.surge_percent}", "step_percent")
        if self.exclude_head and self.workers[1] == 0:
            raise mistake("needs workers: somebody must take requests", "exclude_head")
        if self.workers[1] == 0 and (self.gpus or self.node_selector):
            raise mistake("is 0, so that gpus and node_selector would be of no use; make it 1 at least", "workers")
        return self


def ray_service(options: RayServiceOptions, config: ServedConfig) -> dict[str, Any]:
    """The manifest of a RayService (`ray.io/v1`).

    Raises:
        ConfigError: the config cannot be served so; the message says which of its fields, or which option.
    """
    _check(options, config)
    cluster: dict[str, Any] = {
        "rayVersion": options.ray_version,
        # KubeRay makes a token, gives it to the pods, and shows it when it asks.
        "authOptions": {"mode": "token"},
    }
    least, most = options.workers
    if least < most or options.upgrade == "incremental":
        cluster["enableInTreeAutoscaling"] = True
        cluster["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": options.idle_timeout_s}
    if options.gcs_fault_tolerance is not None:
        cluster["gcsFaultToleranceOptions"] = _fault_tolerance(options.gcs_fault_tolerance, options.redis_secret)
    cluster["headGroupSpec"] = _head(options, config)
    if most > 0:
        cluster["workerGroupSpecs"] = [_workers(options, config)]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(options, annotations={"ray.io/overwrite-container-cmd": "true"}),
        "spec": {
            "upgradeStrategy": _upgrade(options),
            **({"excludeHeadPodFromServeSvc": True} if options.exclude_head else {}),
            "serveConfigV2": config.text,
            "rayClusterConfig": cluster,
        },
    }


def _check(options: RayServiceOptions, config: ServedConfig) -> None:
    config.check_serves_http()
    http = config.http
    if http.ssl_certfile is not None:
        raise ConfigError("http_options.ssl_certfile: KubeRay asks proxies over HTTP; end TLS at an ingress instead")
    if http.root_path:
        raise ConfigError("http_options.root_path: KubeRay asks proxies at /-/healthz; strip the path at an ingress")
    if http.port in (0, REST_PORT, RAY_DASHBOARD_PORT, RAY_AGENT_PORT, 6379, 8080, 10001):
        why = "must be known" if http.port == 0 else f"{http.port} is taken in these pods"
        raise ConfigError(f"http_options.port: {why}; choose another one, such as 8000")
    if options.workers[1] > 0:
        config.check_fits(cpus=_whole_cpus(options.cpus), gpus=options.gpus, what="a worker")
    else:
        config.check_fits(cpus=_whole_cpus(options.head_cpus), gpus=0, what="the head, without workers,")


def _whole_cpus(cpus: str) -> int:
    """What Ray is told, by KubeRay."""
    return math.ceil(amount(cpus))


def _fault_tolerance(address: str, secret: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {"redisAddress": address}
    if secret is not None:
        name, key = secret.split(":")
        made["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}
    return made


def _upgrade(options: RayServiceOptions) -> dict[str, Any]:
    if options.upgrade != "incremental":
        return {"type": {"cluster": "NewCluster", "none": "None"}[options.upgrade]}
    return {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": options.gateway_class,
            "stepSizePercent": options.step_percent,
            "intervalSeconds": options.step_interval_s,
            "maxSurgePercent": options.surge_percent,
        },
    }


def _head(options: RayServiceOptions, config: ServedConfig) -> dict[str, Any]:
    params = {"dashboard-host": "0.0.0.0", "dashboard-port": str(RAY_DASHBOARD_PORT)}
    if options.workers[1] > 0:
        # Nothing is placed beside what the cluster depends on.
        params["num-cpus"] = "0"
    ports = {
        "gcs-server": 6379,
        "dashboard": REST_PORT,
        "ray-dashboard": RAY_DASHBOARD_PORT,
        "client": 10001,
        "serve": config.http.port,
    }
    start = [
        *("headrace", "start", "--engine", "ray"),
        *("--http-host", "0.0.0.0", *config.start_flags()),
        *("--rest-host", "0.0.0.0", "--rest-port", str(REST_PORT)),
    ]
    probes = {
        # Whether it takes requests is not asked here: KubeRay asks the proxy itself, and labels the pod.
        "readinessProbe": http_probe("/api/healthz", RAY_AGENT_PORT, period_s=5, failures=10),
        "livenessProbe": _liveness(),
    }
    return {
        "rayStartParams": params,
        "template": _template(
            options,
            "ray-head",
            _HEAD_SCRIPT.format(start=shlex.join(start)),
            ports,
            probes,
            resources(options.head_cpus, options.head_memory),
            config,
            worker=False,
        ),
    }


def _workers(options: RayServiceOptions, config: ServedConfig) -> dict[str, Any]:
    least, most = options.workers
    probes = {
        # Each node has a proxy, so that each takes requests as soon as that one knows of the routes.
        "readinessProbe": http_probe("/-/healthz", "serve", period_s=5, failures=1),
        "livenessProbe": _liveness(),
    }
    group: dict[str, Any] = {"groupName": "workers", "replicas": least, "minReplicas": least, "maxReplicas": most}
    if options.upgrade == "incremental":
        del group["replicas"]  # follows the replicas of deployments, of which a new cluster has none at first
    group["rayStartParams"] = {}
    group["template"] = _template(
        options,
        "ray-worker",
        _WORKER_SCRIPT,
        {"serve": config.http.port},
        probes,
        resources(options.cpus, options.memory, options.gpus, options.gpu_resource),
        config,
        worker=True,
    )
    return group


def _liveness() -> dict[str, Any]:
    # Ten minutes: while the head's pod is made anew, workers wait for it.
    return {"initialDelaySeconds": 30, **http_probe("/api/healthz", RAY_AGENT_PORT, period_s=5, failures=120)}


def _template(
    options: RayServiceOptions,
    name: str,
    script: str,
    ports: Mapping[str, int],
    probes: dict[str, Any],
    amounts: dict[str, Any],
    config: ServedConfig,
    *,
    worker: bool,
) -> dict[str, Any]:
    drain_s = math.ceil(config.drain_s() if options.drain_s is None else options.drain_s)
    # Told to end, Ray says that this node is drained, and waits so long for what runs here.
    made = container(options, name, {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s)})
    made["command"] = ["/bin/bash", "-c", "--"]
    made["args"] = [script]
    made["ports"] = [{"name": port, "containerPort": number} for port, number in ports.items()]
    made["resources"] = amounts
    made.update(probes)
    made["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(SETTLE_S)]}}}
    spec = pod_spec(options, grace_s=SETTLE_S + drain_s + 15, on_gpus=worker and options.gpus > 0, selected=worker)
    return {"spec": {**spec, "containers": [made]}}
