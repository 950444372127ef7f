"""`headrace kubernetes rayservice`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli import kubernetes_options as common

_CLUSTER = "Cluster"
_UPGRADES = "Upgrades"


def rayservice(
    target: common.Config,
    image: common.Image,
    name: common.Name = None,
    namespace: common.Namespace = None,
    workers: Annotated[
        str,
        typer.Option(
            "--workers",
            metavar="MIN:MAX",
            help="How many; one number for always as many, 0 to run replicas on the head.",
            rich_help_panel="Pods that run replicas",
        ),
    ] = "1",
    cpus: common.Cpus = "4",
    memory: common.Memory = "16Gi",
    gpus: common.Gpus = 0,
    gpu_resource: common.GpuResource = "nvidia.com/gpu",
    node_selector: common.NodeSelector = None,
    idle_timeout_s: Annotated[
        int,
        typer.Option(
            "--idle-timeout-s",
            help="How long one has nothing to do before it is taken away.",
            rich_help_panel="Pods that run replicas",
        ),
    ] = 300,
    head_cpus: Annotated[
        str, typer.Option("--head-cpus", metavar="AMOUNT", help="CPUs of the head.", rich_help_panel=_CLUSTER)
    ] = "2",
    head_memory: Annotated[
        str, typer.Option("--head-memory", metavar="AMOUNT", help="Memory of the head.", rich_help_panel=_CLUSTER)
    ] = "8Gi",
    exclude_head: Annotated[
        bool, typer.Option("--exclude-head", help="The head takes no requests.", rich_help_panel=_CLUSTER)
    ] = False,
    ray_version: Annotated[
        str, typer.Option("--ray-version", metavar="VERSION", help="In the image.", rich_help_panel=_CLUSTER)
    ] = "2.60.0",
    gcs_fault_tolerance: Annotated[
        str | None,
        typer.Option(
            "--gcs-fault-tolerance",
            metavar="HOST:PORT",
            help="A Redis in which the cluster's state outlives the head's pod.",
            show_default=False,
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    redis_secret: Annotated[
        str | None,
        typer.Option(
            "--redis-secret",
            metavar="NAME:KEY",
            help="Its password, in a Secret.",
            show_default=False,
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    upgrade: Annotated[
        str,
        typer.Option(
            "--upgrade",
            metavar="cluster|incremental|none",
            help="What a change of the pods does: a second cluster that takes over when it is ready, or in steps, or "
            "nothing.",
            rich_help_panel=_UPGRADES,
        ),
    ] = "cluster",
    gateway_class: Annotated[
        str | None,
        typer.Option(
            "--gateway-class",
            metavar="NAME",
            help="What splits requests in steps: a GatewayClass.",
            show_default=False,
            rich_help_panel=_UPGRADES,
        ),
    ] = None,
    step_percent: Annotated[
        int, typer.Option("--step-percent", help="Of the requests, in one step.", rich_help_panel=_UPGRADES)
    ] = 10,
    step_interval_s: Annotated[
        int, typer.Option("--step-interval-s", help="From one step to the next.", rich_help_panel=_UPGRADES)
    ] = 30,
    surge_percent: Annotated[
        int, typer.Option("--surge-percent", help="Replicas beyond what is needed.", rich_help_panel=_UPGRADES)
    ] = 100,
    env: common.Env = None,
    env_from_secret: common.EnvFromSecret = None,
    image_pull_secret: common.ImagePullSecret = None,
    service_account: common.ServiceAccount = None,
    drain_s: common.DrainS = None,
    output: common.Output = None,
) -> None:
    """The manifest of a RayService: KubeRay makes a cluster of pods, and has Headrace serve the config on it.

    Needs KubeRay 1.6 and Ray 2.53 in the image, at least. Pods of workers come and go with what replicas ask for.

    [bold]Examples[/bold]

    [cyan]$ headrace kubernetes rayservice app.yaml --image my-app:1 | kubectl apply -f -[/cyan]
    [cyan]$ headrace kubernetes rayservice llm.yaml --image my-llm:1 --gpus 1 --memory 64Gi --workers 1:8[/cyan]
    [cyan]$ headrace kubernetes rayservice app.yaml --image my-app:1 --gcs-fault-tolerance redis:6379[/cyan]
    """
    from headrace.kubernetes.ray_service import RayServiceOptions, ray_service

    config, suggested = common.served_config(target)
    given: dict[str, Any] = {
        "image": image,
        "name": common.name_of(name, suggested),
        "namespace": namespace,
        "workers": workers,
        "cpus": cpus,
        "memory": memory,
        "gpus": gpus,
        "gpu_resource": gpu_resource,
        "node_selector": common.pairs("--node-selector", node_selector),
        "idle_timeout_s": idle_timeout_s,
        "head_cpus": head_cpus,
        "head_memory": head_memory,
        "exclude_head": exclude_head,
        "ray_version": ray_version,
        "gcs_fault_tolerance": gcs_fault_tolerance,
        "redis_secret": redis_secret,
        "upgrade": upgrade,
        "gateway_class": gateway_class,
        "step_percent": step_percent,
        "step_interval_s": step_interval_s,
        "surge_percent": surge_percent,
        "env": common.pairs("--env", env),
        "env_from_secrets": env_from_secret or [],
        "image_pull_secrets": image_pull_secret or [],
        "service_account": service_account,
        "drain_s": drain_s,
    }
    common.write([ray_service(RayServiceOptions(**given), config)], output)
