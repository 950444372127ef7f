"""`headrace config`"""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import Address


def config(
    address: Address = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Only this application.", show_default=False)] = None,
) -> None:
    """The configs that applications were deployed with, as YAML.

    Applications that a Python program has deployed with [cyan]serve.run[/cyan] have none.

    [bold]Examples[/bold]

    [cyan]$ headrace config[/cyan]
    [cyan]$ headrace config --name text > text.yaml[/cyan]
    """
    from headrace.cli.messages import err
    from headrace.cli.rest import connect
    from headrace.cli.status import application_named
    from headrace.cli.yaml_output import to_yaml

    applications = connect(address).details()["applications"]
    if name is not None:
        applications = {name: application_named(name, applications)}
    configs = [app["deployed_app_config"] for app in applications.values() if app.get("deployed_app_config")]
    if configs:
        typer.echo("---\n".join(to_yaml(config) for config in configs), nl=False)
    else:
        err.print("No application was deployed from a config.", style="bright_black")
