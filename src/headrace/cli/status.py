"""`headrace status`"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from headrace.cli.options import Address


class Format(StrEnum):
    """How a status is printed."""

    table = "table"
    yaml = "yaml"
    json = "json"


def status(
    address: Address = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only this application.", show_default=False)] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-o",
            help="[cyan]table[/cyan] for people, [cyan]yaml[/cyan] or [cyan]json[/cyan] for programs. "
            "[dim]Default: table on a terminal, yaml elsewhere.[/dim]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """What is deployed, and how it is.

    An application is [green]RUNNING[/green] when all of its deployments are [green]HEALTHY[/green],
    [yellow]DEPLOYING[/yellow] until then, [red]UNHEALTHY[/red] when replicas are lost, and
    [red]DEPLOY_FAILED[/red] when it cannot start; the reason is printed below the table.

    [bold]Examples[/bold]

    [cyan]$ headrace status[/cyan]
    [cyan]$ headrace status --name text --format json[/cyan]
    [cyan]$ watch --color headrace status -o table[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.cli.rest import connect
    from headrace.cli.status_view import for_people, for_programs
    from headrace.cli.yaml_output import to_yaml

    instance = connect(address)
    details, nodes = instance.details(), instance.nodes()
    if name is not None:
        details["applications"] = {name: application_named(name, details["applications"])}
    format = format or (Format.table if sys.stdout.isatty() else Format.yaml)
    if format is Format.table:
        out.print(for_people(details, nodes if name is None else ()))
        return
    brief = for_programs(details, nodes)
    told = brief if name is None else brief["applications"][name]
    typer.echo(json.dumps(told, indent=2) if format is Format.json else to_yaml(told), nl=format is Format.json)


def application_named(name: str, applications: dict[str, dict[str, object]]) -> dict[str, object]:
    """The application of that name.

    Raises:
        ConfigError: there is none.
    """
    from headrace.config.problems import nearest
    from headrace.exceptions import ConfigError

    if name in applications:
        return applications[name]
    meant = nearest(name, applications)
    there = f"did you mean '{meant}'?" if meant else f"there are {', '.join(sorted(applications)) or 'none'}"
    raise ConfigError(f"there is no application '{name}'; {there}")
