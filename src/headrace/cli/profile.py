"""`headrace profile`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Address, ProcessArgument

_FORMATS = {".svg": "flamegraph", ".json": "speedscope"}


def profile(
    target: ProcessArgument,
    seconds: Annotated[
        int, typer.Option("--seconds", "-s", min=1, max=3600, metavar="SECONDS", help="For how long.")
    ] = 10,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="[cyan].svg[/cyan] for a flame graph, which browsers show; [cyan].json[/cyan] for "
            "https://www.speedscope.app. [dim]Default: profile-PID.svg[/dim]",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        int, typer.Option("--rate", "-r", min=1, max=1000, metavar="NUMBER", help="Samples per second.")
    ] = 100,
    native: Annotated[bool, typer.Option("--native", help="With frames of C, C++ and Cython.")] = False,
    idle: Annotated[bool, typer.Option("--idle", help="With threads that wait, too.")] = False,
    address: Address = None,
) -> None:
    """Where the time of a live process goes: a flame graph.

    py-spy samples its stacks from outside, which costs it next to nothing. It is in the extra [cyan]debug[/cyan], and
    the process must be on this machine.

    [bold]Examples[/bold]

    [cyan]$ headrace profile default/Model[/cyan]
    [cyan]$ headrace profile c7k2p --seconds 30 --native --output model.json[/cyan]
    """
    from headrace.cli.messages import err, out
    from headrace.cli.process_target import only_target
    from headrace.cli.py_spy import local_pid, needed_py_spy, record
    from headrace.cli.rest import connect
    from headrace.exceptions import ConfigError

    if output is not None and output.suffix not in _FORMATS:
        raise ConfigError(f"--output must end with .svg or .json, not '{output}'")
    client = connect(address)
    status = client.status()
    process = only_target(target, status)
    pid = local_pid(process, client.own_node(status))
    program = needed_py_spy()
    file = output if output is not None else Path(f"profile-{pid}.svg")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--output: there is no folder '{file.parent}'")
    err.print(f"Sampling {process}, for {seconds} s", soft_wrap=True)
    record(program, pid, seconds, rate, _FORMATS[file.suffix], native, idle, file)
    out.print(f"Wrote {file}", soft_wrap=True)
