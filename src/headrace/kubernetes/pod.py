"""What the pods of both kinds have in common: one container, its resources, its environment, what it may do."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from headrace.config.model import ConfigModel, NonNegativeInt, NonNegativeNumber
from headrace.kubernetes.fields import DnsName, Image, Labels, Memory, Quantity, Variables

SETTLE_S = 5
"""How long it may take until nobody sends requests to a pod any more that is to end."""


class PodOptions(ConfigModel):
    """Options of pods that serve.

    Attributes:
        image: with Headrace and the code that is served.
        name: of what is made.
        namespace: where it is made; None leaves it to `kubectl`.
        cpus, memory: of each pod that runs replicas, as Kubernetes writes amounts.
        gpus: GPUs of each such pod.
        gpu_resource: what Kubernetes calls them.
        node_selector: labels of the machines where these pods may run.
        env: environment variables.
        env_from_secrets: names of Secrets whose entries become environment variables.
        image_pull_secrets: names of Secrets with which the image is pulled.
        service_account: under which pods run; None for the namespace's own.
        drain_s: how long requests that were begun may take when a pod is to end, seconds; None for the longest
            `graceful_shutdown_timeout_s` in the config, or its default where none is there.
    """

    title: ClassVar[str] = "wrong options"

    image: Image
    name: DnsName
    namespace: DnsName | None = None
    cpus: Quantity = "4"
    memory: Memory = "16Gi"
    gpus: NonNegativeInt = 0
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: Labels = Field(default_factory=dict)
    env: Variables = Field(default_factory=dict)
    env_from_secrets: list[str] = Field(default_factory=list)
    image_pull_secrets: list[str] = Field(default_factory=list)
    service_account: DnsName | None = None
    drain_s: NonNegativeNumber | None = None


def resources(cpus: str, memory: str, gpus: int = 0, gpu_resource: str = "") -> dict[str, Any]:
    """As much as is asked for is given, and no more: what a pod would take from others, it would lose again."""
    amounts = {"cpu": cpus, "memory": memory, **({gpu_resource: gpus} if gpus else {})}
    return {"requests": dict(amounts), "limits": amounts}


def container(options: PodOptions, name: str, env: dict[str, str]) -> dict[str, Any]:
    """The container, without what is started in it. `env`: variables of ours; the user's win over them."""
    variables = {**env, **options.env}
    made: dict[str, Any] = {"name": name, "image": options.image}
    if variables:
        made["env"] = [{"name": variable, "value": value} for variable, value in variables.items()]
    if options.env_from_secrets:
        made["envFrom"] = [{"secretRef": {"name": secret}} for secret in options.env_from_secrets]
    made["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return made


def pod_spec(options: PodOptions, *, grace_s: int, on_gpus: bool, selected: bool = True) -> dict[str, Any]:
    """A pod's spec, without its containers.

    Args:
        grace_s: how long it may take to end before it is killed, seconds.
        on_gpus: it goes to machines that are kept for those who need GPUs.
        selected: `node_selector` is for it.
    """
    made: dict[str, Any] = {"terminationGracePeriodSeconds": grace_s}
    if options.service_account is not None:
        made["serviceAccountName"] = options.service_account
    if options.image_pull_secrets:
        made["imagePullSecrets"] = [{"name": secret} for secret in options.image_pull_secrets]
    if options.node_selector and selected:
        made["nodeSelector"] = dict(options.node_selector)
    if on_gpus:
        made["tolerations"] = [{"key": options.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return made


def http_probe(path: str, port: str | int, *, period_s: int, failures: int, timeout_s: int = 3) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def metadata(options: PodOptions, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": options.name}
    if options.namespace is not None:
        made["namespace"] = options.namespace
    return {**made, **more}
