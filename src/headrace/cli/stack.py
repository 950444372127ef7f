"""`headrace stack`"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Address, ProcessArgument

if TYPE_CHECKING:
    from headrace.cli.process_target import Target
    from headrace.cli.rest import RestClient


def stack(
    target: ProcessArgument,
    address: Address = None,
    all: Annotated[
        bool, typer.Option("--all", help="With what is Headrace's own: how threads began, tasks that wait for calls.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a list with one object per process.")] = False,
) -> None:
    """What a live process is at: the Python stacks of its threads, and what its asyncio tasks wait for.

    It is answered by a thread beside the event loop, also while user code blocks the loop. A process that does not
    answer at all (it is stopped, or code in C keeps the interpreter's lock) is read from outside with py-spy, where
    that is installed and the process is on this machine.

    [bold]Examples[/bold]

    [cyan]$ headrace stack default/Model[/cyan]
    [cyan]$ headrace stack c7k2p[/cyan]
    [cyan]$ headrace stack proxy[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.cli.process_target import targets
    from headrace.cli.rest import connect
    from headrace.cli.stacks_view import stacks_for_people
    from headrace.exceptions import HeadraceError

    client = connect(address)
    status = client.status()
    told: list[dict[str, Any]] = []
    failed = False
    for number, each in enumerate(targets(target, status)):
        if number and not as_json:
            out.print()
        try:
            stacks, text = _of_process(client, each, status)
        except HeadraceError as error:
            failed = True
            told.append({"target": each.name or each.kind, "error": str(error)})
            if not as_json:
                typer.echo(f"{each}: {error}", err=True)
            continue
        if stacks is not None:
            told.append({"target": each.name or each.kind, **stacks})
        else:
            told.append({"target": each.name or each.kind, "py_spy": text})
        if not as_json:
            shown = stacks_for_people(str(each), stacks, all or each.kind != "replicas") if stacks is not None else text
            out.print(shown, soft_wrap=True, markup=False)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    if failed:
        raise typer.Exit(1)


def _of_process(client: RestClient, target: Target, status: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Its stacks, or what py-spy reads from outside.

    Raises:
        HeadraceError: neither is to be had; the message says why.
    """
    from headrace.cli.py_spy import dump, find_py_spy, local_pid
    from headrace.cli.rest import SilentProcessError
    from headrace.exceptions import ConfigError, HeadraceError

    try:
        return client.stacks(target.kind, target.name), ""
    except SilentProcessError as silent:
        try:
            pid = local_pid(target, client.own_node(status))
        except ConfigError as elsewhere:
            raise HeadraceError(f"{silent}\nNor can it be read from outside: {elsewhere}") from None
        program = find_py_spy()
        if program is None:
            raise HeadraceError(f"{silent}\npy-spy can read it from outside: pip install 'headrace[debug]'") from None
        try:
            return None, f"{silent}. py-spy reads it from outside:\n{dump(program, pid)}"
        except HeadraceError as error:
            raise HeadraceError(f"{silent}\nNor can it be read from outside: {error}") from None
