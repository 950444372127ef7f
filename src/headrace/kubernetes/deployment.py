"""Plain Kubernetes: pods that serve a config each, with the local engine, behind one Service."""

from __future__ import annotations

import hashlib
import math
from typing import Any, ClassVar

from pydantic import Field, field_validator

from headrace.config import InstanceConfig
from headrace.config.model import PositiveNumber
from headrace.exceptions import ConfigError
from headrace.kubernetes.fields import Pods
from headrace.kubernetes.pod import SETTLE_S, PodOptions, container, http_probe, metadata, pod_spec, resources
from headrace.kubernetes.served_config import ServedConfig

REST_PORT = 8265
CONFIG_FOLDER = "/etc/headrace"
CONFIG_FILE = "app.yaml"
LONGEST_NAME = 63
ONGOING = "serve_num_ongoing_http_requests"
"""Metric of each proxy: requests that it works on, those that wait for a replica among them."""


class PlainOptions(PodOptions):
    """Options of a Deployment and what belongs to it.

    Attributes:
        pods: the least and the most; what is between follows from the requests in the pods.
        target_ongoing_requests: how many requests each pod is to work on, on average over all pods.
        metrics_prefix: of the names of metrics; None for `$HEADRACE_METRICS_PREFIX`, or `ray_`.
        startup_s: how long a pod may take until it serves, seconds: pulling models takes its time.
    """

    title: ClassVar[str] = "wrong Deployment"

    pods: Pods = (1, 1)
    target_ongoing_requests: PositiveNumber = 10.0
    metrics_prefix: str | None = None
    startup_s: int = Field(default=600, strict=True, ge=10)

    @field_validator("name")
    @classmethod
    def _short_enough(cls, name: str) -> str:
        if len(name) > LONGEST_NAME:
            raise ValueError(f"must have at most {LONGEST_NAME} characters, not {len(name)}")
        return name

    @field_validator("pods")
    @classmethod
    def _one_at_least(cls, pods: tuple[int, int]) -> tuple[int, int]:
        if pods[0] < 1:
            raise ValueError("must be 1 at least: what scales by its requests would never come back from none")
        return pods


def deployment_manifests(options: PlainOptions, config: ServedConfig) -> list[dict[str, Any]]:
    """A ConfigMap with the config, Deployment, Service, PodDisruptionBudget, and a HorizontalPodAutoscaler where the
    number of pods is not fixed.

    Raises:
        ConfigError: the config cannot be served so; the message says which of its fields, or which option.
    """
    name = options.name
    config.check_serves_http()
    if config.http.port in (0, REST_PORT):
        why = "must be known" if config.http.port == 0 else f"{config.http.port} is taken in these pods"
        raise ConfigError(f"http_options.port: {why}; choose another one, such as 8000")
    config.check_fits(cpus=math.inf, gpus=options.gpus, what="a pod")
    prefix = InstanceConfig.from_user(metrics_prefix=options.metrics_prefix).metrics_prefix
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "headrace"}
    selector = {"app.kubernetes.io/name": name}
    least, most = options.pods
    manifests = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(options, labels=labels),
            "data": {CONFIG_FILE: config.text},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(options, labels=labels),
            "spec": {
                # Where an autoscaler sets the number, saying it here would set it back with each change.
                **({"replicas": least} if least == most else {}),
                "selector": {"matchLabels": selector},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": _template(options, config, labels, prefix),
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(options, labels=labels),
            "spec": {
                "selector": selector,
                "ports": [{"name": "http", "port": config.http.port, "targetPort": "http"}],
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(options, labels=labels),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": selector},
                # A pod that does not serve anyway keeps no machine from being emptied.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        },
    ]
    if least < most:
        manifests.append(_autoscaler(options, labels, prefix))
    return manifests


def _template(options: PlainOptions, config: ServedConfig, labels: dict[str, str], prefix: str) -> dict[str, Any]:
    http = config.http
    scheme = {"scheme": "HTTPS"} if http.ssl_certfile is not None else {}
    alive = http_probe(f"{http.root_path}/-/healthz", "http", period_s=10, failures=6)
    alive["httpGet"].update(scheme)
    ready = http_probe("/api/headrace/ready", "rest", period_s=5, failures=3)
    begun = http_probe("/api/headrace/ready", "rest", period_s=5, failures=math.ceil(options.startup_s / 5))
    made = container(options, "headrace", {"HEADRACE_METRICS_PREFIX": prefix})
    made["command"] = ["headrace", "run", f"{CONFIG_FOLDER}/{CONFIG_FILE}"]
    made["args"] = [
        *("--host", "0.0.0.0", "--port", str(http.port), "--rest-host", "0.0.0.0", "--rest-port", str(REST_PORT)),
    ]
    made["ports"] = [{"name": "http", "containerPort": http.port}, {"name": "rest", "containerPort": REST_PORT}]
    made["resources"] = resources(options.cpus, options.memory, options.gpus, options.gpu_resource)
    made["startupProbe"] = begun
    made["readinessProbe"] = ready
    made["livenessProbe"] = alive
    made["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", str(SETTLE_S)]}}}
    made["volumeMounts"] = [
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    drain_s = math.ceil(config.drain_s() if options.drain_s is None else options.drain_s)
    # Proxies finish first, then the replicas; each may take that long.
    spec = pod_spec(options, grace_s=SETTLE_S + 2 * drain_s + 15, on_gpus=options.gpus > 0)
    # It asks nothing of Kubernetes.
    spec["automountServiceAccountToken"] = False
    spec["containers"] = [made]
    spec["volumes"] = [
        {"name": "config", "configMap": {"name": options.name}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    annotations = {
        # Another config is another pod: without it the old pods would go on with the old one.
        "headrace/config-sha256": hashlib.sha256(config.text.encode()).hexdigest(),
        "prometheus.io/scrape": "true",
        "prometheus.io/path": f"{http.root_path}/-/metrics",
        "prometheus.io/port": str(http.port),
    }
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _autoscaler(options: PlainOptions, labels: dict[str, str], prefix: str) -> dict[str, Any]:
    least, most = options.pods
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(options, labels=labels),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": options.name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": f"{prefix}{ONGOING}"},
                        "target": {
                            "type": "AverageValue",
                            "averageValue": _thousandths(options.target_ongoing_requests),
                        },
                    },
                }
            ],
            "behavior": {
                # Load that comes is answered at once; a pod with models is not given up for a short silence.
                "scaleUp": {"stabilizationWindowSeconds": 0},
                "scaleDown": {"stabilizationWindowSeconds": 300},
            },
        },
    }


def _thousandths(number: float) -> str:
    """A number as Kubernetes' quantity: it knows no decimal places beyond three."""
    return str(int(number)) if float(number).is_integer() else f"{max(1, round(number * 1000))}m"
