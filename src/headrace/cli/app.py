"""The commands, put together, and what becomes of their errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headrace.cli.build import build
from headrace.cli.config import config
from headrace.cli.deploy import deploy
from headrace.cli.history import history
from headrace.cli.kubernetes import kubernetes
from headrace.cli.llm.app import llm
from headrace.cli.logs import logs
from headrace.cli.metrics import metrics
from headrace.cli.profile import profile
from headrace.cli.reflow import reflow
from headrace.cli.rollback import rollback
from headrace.cli.run import run
from headrace.cli.shutdown import shutdown
from headrace.cli.simulate import simulate
from headrace.cli.stack import stack
from headrace.cli.start import start
from headrace.cli.status import status
from headrace.cli.top import top
from headrace.exceptions import HeadraceError


class _Commands(TyperGroup):
    """Turns every mistake of the user's into one readable message and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            from headrace.cli.messages import show_error

            show_error(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    name="headrace",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=reflow("""Serve machine-learning models, alone or as pipelines, over HTTP.

    [bold]In a minute[/bold]

    Write [cyan]hello.py[/cyan]:

    [green]import headrace as serve[/green]

    [green]@serve.deployment[/green]
    [green]def hello(name: str) -> str:[/green]
    [green]    return f"Hello {name}!"[/green]

    [green]app = hello.bind()[/green]

    Serve it, and call it from another terminal:

    [cyan]$ headrace run hello:app[/cyan]
    [cyan]$ curl 'localhost:8000?name=world'[/cyan]"""),
    epilog=reflow("""[bold]Two ways to serve[/bold]

    [cyan]headrace run[/cyan] serves until Ctrl-C, for development. [cyan]headrace start[/cyan] leaves an instance in
    the background, which [cyan]headrace deploy[/cyan] gives applications to, for everything else.

    [cyan]headrace COMMAND --help[/cyan] has examples for each command."""),
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for command in (run, start, deploy, status, top, logs, stack, profile, history, rollback, config, build, shutdown):
    app.command(help=reflow(command.__doc__ or ""))(command)
app.add_typer(kubernetes, name="kubernetes")
app.add_typer(llm, name="llm")
app.add_typer(metrics, name="metrics")
app.add_typer(simulate, name="simulate")
