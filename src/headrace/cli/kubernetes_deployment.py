"""`headrace kubernetes deployment`"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from headrace.cli import kubernetes_options as common


def deployment(
    target: common.Config,
    image: common.Image,
    name: common.Name = None,
    namespace: common.Namespace = None,
    pods: Annotated[
        str,
        typer.Option(
            "--pods",
            metavar="MIN:MAX",
            help="How many; one number for always as many.",
            rich_help_panel="Pods that run replicas",
        ),
    ] = "1",
    cpus: common.Cpus = "4",
    memory: common.Memory = "16Gi",
    gpus: common.Gpus = 0,
    gpu_resource: common.GpuResource = "nvidia.com/gpu",
    node_selector: common.NodeSelector = None,
    target_ongoing_requests: Annotated[
        float,
        typer.Option(
            "--target-ongoing-requests",
            help="How many requests each is to work on.",
            rich_help_panel="Pods that run replicas",
        ),
    ] = 10.0,
    metrics_prefix: Annotated[
        str | None,
        typer.Option(
            "--metrics-prefix",
            metavar="TEXT",
            help="What the names of metrics begin with; '' for nothing. "
            "[dim]Default: HEADRACE_METRICS_PREFIX, or ray_.[/dim]",
            show_default=False,
            rich_help_panel="Pods",
        ),
    ] = None,
    startup_s: Annotated[
        int, typer.Option("--startup-s", help="How long a pod may take until it serves.", rich_help_panel="Pods")
    ] = 600,
    env: common.Env = None,
    env_from_secret: common.EnvFromSecret = None,
    image_pull_secret: common.ImagePullSecret = None,
    service_account: common.ServiceAccount = None,
    drain_s: common.DrainS = None,
    output: common.Output = None,
) -> None:
    """Manifests without Ray: each pod serves the whole config, behind one Service.

    A Deployment with its ConfigMap, a Service, a PodDisruptionBudget, and where the number of pods is not fixed a
    HorizontalPodAutoscaler, which needs the Prometheus adapter.

    [bold]Examples[/bold]

    [cyan]$ headrace kubernetes deployment app.yaml --image my-app:1 | kubectl apply -f -[/cyan]
    [cyan]$ headrace kubernetes deployment app.yaml --image my-app:1 --pods 2:10 --gpus 1 -o my-app.yaml[/cyan]
    """
    from headrace.kubernetes.deployment import PlainOptions, deployment_manifests

    config, suggested = common.served_config(target)
    given: dict[str, Any] = {
        "image": image,
        "name": common.name_of(name, suggested),
        "namespace": namespace,
        "pods": pods,
        "cpus": cpus,
        "memory": memory,
        "gpus": gpus,
        "gpu_resource": gpu_resource,
        "node_selector": common.pairs("--node-selector", node_selector),
        "target_ongoing_requests": target_ongoing_requests,
        "metrics_prefix": metrics_prefix,
        "startup_s": startup_s,
        "env": common.pairs("--env", env),
        "env_from_secrets": env_from_secret or [],
        "image_pull_secrets": image_pull_secret or [],
        "service_account": service_account,
        "drain_s": drain_s,
    }
    common.write(deployment_manifests(PlainOptions(**given), config), output)
