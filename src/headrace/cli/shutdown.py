"""`headrace shutdown`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import Address

if TYPE_CHECKING:
    from headrace.client import Client


def shutdown(
    address: Address = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the instance in the background, and everything that it serves.

    Requests that are being served are answered first. With an address, the instance stays, and all of its
    applications are deleted.

    [bold]Examples[/bold]

    [cyan]$ headrace shutdown[/cyan]
    [cyan]$ headrace shutdown --yes[/cyan]
    [cyan]$ headrace shutdown --address http://10.0.0.5:8265[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.cli.rest import connect, named_by_environment

    if address is not None or named_by_environment():
        rest = connect(address)
        names = list(rest.details()["applications"])
        _confirm(f"Delete {_listed(names)} at {rest.address}?", yes)
        rest.delete_applications()
        out.print(f"Deleted {_listed(names)}.")
        return
    from headrace import client

    instance = client.find()
    _confirm(_question(instance), yes)
    instance.shutdown()
    out.print("Stopped.")


def _question(instance: Client) -> str:
    from headrace.exceptions import StartupError

    try:
        names = [application.name for application in instance.status().applications]
        return f"Stop the instance at {instance.http_url or instance.rest_url} with {_listed(names)}?"
    except StartupError:
        return f"Stop the instance in {instance.session.dir}, whose controller cannot start, with all that it serves?"


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True)


def _listed(names: list[str]) -> str:
    if not names:
        return "no applications"
    return f"the application{'s' if len(names) > 1 else ''} {', '.join(names)}"
