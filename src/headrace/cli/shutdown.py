"""`headrace shutdown`"""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import Address


def shutdown(
    address: Address = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the instance in the background, and everything that it serves.

    [bold]Examples[/bold]

    [cyan]$ headrace shutdown[/cyan]
    [cyan]$ headrace shutdown --yes[/cyan]
    [cyan]$ headrace shutdown --address http://10.0.0.5:8265   [dim]# deletes all applications there[/dim][/cyan]
    """
