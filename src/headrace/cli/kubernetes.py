"""The commands of `headrace kubernetes`, put together."""

from __future__ import annotations

import typer

from headrace.cli.kubernetes_deployment import deployment
from headrace.cli.kubernetes_rayservice import rayservice
from headrace.cli.reflow import reflow

kubernetes = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=reflow("""Manifests with which a config is served on Kubernetes. They are printed; nothing is applied.

    [bold]Examples[/bold]

    [cyan]$ headrace kubernetes rayservice app.yaml --image my-app:1 --gpus 1 --workers 1:4 | kubectl apply -f -[/cyan]
    [cyan]$ headrace kubernetes deployment app.yaml --image my-app:1 -o my-app.yaml[/cyan]"""),
)
for command in (rayservice, deployment):
    kubernetes.command(help=reflow(command.__doc__ or ""))(command)
