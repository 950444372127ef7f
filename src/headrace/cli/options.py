"""Options that several commands have, and how `key=value` arguments are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headrace.exceptions import ConfigError

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        "-a",
        metavar="URL",
        help="Where the REST API is. [dim]Default: the instance that runs on this machine, or "
        "http://127.0.0.1:8265. HEADRACE_REST_ADDRESS sets it too.[/dim]",
        show_default=False,
    ),
]
AppDir = Annotated[
    str, typer.Option("--app-dir", "-d", metavar="FOLDER", help="Where modules of import paths are looked for first.")
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Where processes run: here, or on a Ray cluster. [dim]Default: HEADRACE_ENGINE, or local.[/dim]",
        show_default=False,
        rich_help_panel="Cluster",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Of the Ray cluster. [dim]Default: HEADRACE_RAY_ADDRESS, or the one that this machine is part of.[/dim]",
        show_default=False,
        rich_help_panel="Cluster",
    ),
]
ProxyLocationOption = Annotated[
    str | None,
    typer.Option(
        "--proxy-location",
        metavar="EveryNode|HeadOnly|Disabled",
        help="On which machines of a cluster there are proxies.",
        show_default="EveryNode",
        rich_help_panel="Cluster",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        metavar="URL",
        help="OpenTelemetry collector that traces go to, such as http://localhost:4318. "
        "[dim]Default: as OTEL_TRACES_EXPORTER and the like say, or no traces.[/dim]",
        show_default=False,
        rich_help_panel="Tracing",
    ),
]
TraceSamplingRatio = Annotated[
    float | None,
    typer.Option(
        "--trace-sampling-ratio",
        help="Share of the traces that is recorded, from 0 to 1.",
        show_default="all",
        rich_help_panel="Tracing",
    ),
]
ProcessArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="The id of a replica or the end of it, [cyan]APPLICATION/DEPLOYMENT[/cyan] for all of its replicas, "
        "[cyan]proxy[/cyan], [cyan]proxy-0[/cyan] or [cyan]controller[/cyan].",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="An import path [cyan]module:app[/cyan], or a YAML config file.", show_default=False
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Arguments of the function that builds the application, where the import path names one.",
        show_default=False,
    ),
]


def tracing_config(endpoint: str | None, sampling_ratio: float | None) -> dict[str, Any] | None:
    """What `start` is told of tracing; None for nothing."""
    options = {"endpoint": endpoint, "sampling_ratio": sampling_ratio}
    return {name: value for name, value in options.items() if value is not None} or None


def is_config_file(target: str) -> bool:
    """Whether a target is a config file (or was meant to be one) and no import path."""
    return target.endswith((".yaml", ".yml", ".json"))


def check_import_path(target: str) -> None:
    """Raises ConfigError where a file is named and no application in it."""
    if target.endswith(".py"):
        module = target.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise ConfigError(f"'{target}' is a file; name the application in it, such as '{module}:app'")


def named_arguments(arguments: Sequence[str] | None) -> dict[str, str]:
    """`["a=1"]` as `{"a": "1"}`.

    Raises:
        ConfigError: one of them has another form, or a name is given twice.
    """
    named: dict[str, str] = {}
    for argument in arguments or ():
        name, separator, value = argument.partition("=")
        if not separator or not name:
            raise ConfigError(f"an argument of the application must be KEY=VALUE, not '{argument}'")
        if name in named:
            raise ConfigError(f"the argument '{name}' is given twice")
        named[name] = value
    return named
