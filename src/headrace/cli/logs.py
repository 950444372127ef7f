"""`headrace logs`"""

from __future__ import annotations

import json
import re
import sys
import time
import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Address
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")
_OF_LEVEL = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}


class Level(StrEnum):
    """Levels of log lines."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


def logs(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="Whose: [cyan]app[/cyan], [cyan]app/deployment[/cyan], [cyan]app/deployment/replica[/cyan] (the end "
            "of its id is enough), [cyan]controller[/cyan], [cyan]proxy[/cyan] or [cyan]root[/cyan]. "
            "[dim]Default: all.[/dim]",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="So many of the last.")] = 100,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="AGO", help="Not before: 30s, 10m, 2h, 1d ago.", show_default=False),
    ] = None,
    level: Annotated[Level | None, typer.Option("--level", help="Of this level and above.", show_default=False)] = None,
    grep: Annotated[
        str | None,
        typer.Option(
            "--grep",
            metavar="TEXT",
            help="With this text in the message, the request id or the route, whatever the case.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each.")] = False,
) -> None:
    """What processes have logged and printed, of several together in order of time.

    [bold]Examples[/bold]

    [cyan]$ headrace logs -f[/cyan]
    [cyan]$ headrace logs default/Model --since 10m --level error[/cyan]
    [cyan]$ headrace logs default/Model/x7k2p -n 500[/cyan]
    [cyan]$ headrace logs --grep 5f0e8d2c1b[/cyan]  [dim]# one request, through all replicas[/dim]
    """
    from headrace.cli.messages import err
    from headrace.cli.rest import connect

    query: dict[str, str | int | float] = {"lines": lines}
    if target:
        query["target"] = target
    if since is not None:
        query["since_s"] = seconds_ago(since)
    if level is not None:
        query["level"] = level.value
    if grep:
        query["grep"] = grep
    if follow:
        query["follow"] = "true"
    try:
        for entry in connect(address).logs(query):
            if "not_shown" in entry:
                for machine in entry["not_shown"]:
                    err.print(f"The logs of machine {machine} are there, in its session folder, and not shown here.")
            else:
                _show(entry, as_json)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has had enough
        sys.stderr.close()


def seconds_ago(text: str) -> float:
    """`10m` as 600.

    Raises:
        ConfigError: it has another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if found is None:
        raise ConfigError(f"--since: must be a number with s, m, h or d, such as 10m, not {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def _show(entry: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**entry.pop("fields", {}), **entry}, ensure_ascii=False), flush=True)
        return
    from headrace.cli.messages import out

    if out.is_terminal:
        out.print(_styled(entry), soft_wrap=True)
    else:
        print(_styled(entry).plain, flush=True)


def _styled(entry: dict[str, Any]) -> Text:
    """A line for people: when, how bad, who, about which request, what."""
    from rich.text import Text

    process, level = entry["process"], entry["level"]
    style = _OF_LEVEL.get(level, "")
    at = entry["time"]
    text = Text(time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d} ", style="dim")
    text.append(f"{level:<8}", style=style or "default")
    # One process has one colour, whenever one looks.
    text.append(_printable(process), style=_COLOURS[zlib.crc32(process.encode()) % len(_COLOURS)])
    if entry.get("request_id"):
        text.append(f" {_printable(entry['request_id'])} {_printable(entry.get('route') or '-')}", style="dim")
    text.append(": ", style="dim")
    text.append(_printable(entry["message"]), style=style or "default")
    return text


def _printable(text: str) -> str:
    """Without what would steer the terminal: whoever writes a log is not whoever reads it."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
