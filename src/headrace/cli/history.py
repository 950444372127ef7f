"""`headrace history`"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Address
from headrace.cli.status import Format

if TYPE_CHECKING:
    from headrace.cli.rest import RestClient

ApplicationName = Annotated[
    str | None,
    typer.Argument(
        metavar="APP",
        help="Name of the application. [dim]Default: the only one there is.[/dim]",
        show_default=False,
    ),
]


def history(
    name: ApplicationName = None,
    address: Address = None,
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
    """The last deploys of an application: when, what changed, and what became of each.

    [cyan]headrace rollback[/cyan] returns to one of them. The arrow marks the one that it chooses by itself.

    [bold]Examples[/bold]

    [cyan]$ headrace history[/cyan]
    [cyan]$ headrace history text --format json[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.cli.rest import connect
    from headrace.cli.status_view import history_for_people
    from headrace.cli.yaml_output import to_yaml

    client = connect(address)
    told = client.history(only_application(client, name))
    format = format or (Format.table if sys.stdout.isatty() else Format.yaml)
    if format is Format.table:
        out.print(history_for_people(told))
        return
    typer.echo(json.dumps(told, indent=2) if format is Format.json else to_yaml(told), nl=format is Format.json)


def only_application(client: RestClient, name: str | None) -> str:
    """`name`, or that of the only application where none is given.

    Raises:
        ConfigError: there is not exactly one, or none of that name.
    """
    from headrace.cli.status import application_named
    from headrace.exceptions import ConfigError

    applications: dict[str, Any] = client.details()["applications"]
    if name is not None:
        application_named(name, applications)
        return name
    if len(applications) == 1:
        return next(iter(applications))
    if not applications:
        raise ConfigError("no application is deployed")
    raise ConfigError(f"name one of the applications: {', '.join(sorted(applications))}")
