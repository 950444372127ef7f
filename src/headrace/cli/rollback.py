"""`headrace rollback`"""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.history import ApplicationName, only_application
from headrace.cli.options import Address


def rollback(
    name: ApplicationName = None,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            metavar="NUMBER",
            help="The deploy to return to, as [cyan]headrace history[/cyan] numbers them. "
            "[dim]Default: the last one before the current one that ran in full number.[/dim]",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything runs.")] = True,
) -> None:
    """Return to an earlier deploy of an application, with its code, arguments and options.

    It is rolled out like any other update, without dropping a request. Asked again, it goes further back.

    [bold]Examples[/bold]

    [cyan]$ headrace rollback[/cyan]
    [cyan]$ headrace rollback text --to 3[/cyan]
    """
    from headrace.cli.messages import err, out
    from headrace.cli.progress import wait_until_running
    from headrace.cli.rest import connect
    from headrace.cli.status_view import for_people

    client = connect(address)
    name = only_application(client, name)
    number = client.rollback(name, to)
    out.print(f"Application {name} returns to deploy {number}.")
    if wait:
        try:
            out.print(for_people(wait_until_running(client.details, [name], err)))
        except KeyboardInterrupt:
            err.print("Not waiting any more; the rollback goes on. See how: headrace status")
            raise typer.Exit(130) from None
