"""`headrace metrics`"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.reflow import reflow
from headrace.exceptions import ConfigError

metrics = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=reflow("""What watches the metrics that are at [cyan]/-/metrics[/cyan].

    [bold]Examples[/bold]

    [cyan]$ headrace metrics export ./monitoring[/cyan]"""),
)


@metrics.callback()
def _group() -> None:
    pass


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write to.", show_default=False)],
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            metavar="TEXT",
            help="What the names of the instance's metrics begin with; '' for nothing. "
            "[dim]Default: HEADRACE_METRICS_PREFIX, or ray_.[/dim]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            metavar="HOST:PORT",
            help="Where a proxy answers, once per machine; may be given several times.",
            show_default="localhost:8000",
        ),
    ] = None,
    p99_ms: Annotated[
        float,
        typer.Option("--p99-ms", metavar="MS", help="What one request in a hundred may take before an alert fires."),
    ] = 1000.0,
    error_percent: Annotated[
        float, typer.Option("--error-percent", metavar="%", help="How many requests may fail before an alert fires.")
    ] = 5.0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite files that were changed.")] = False,
) -> None:
    """Write Grafana dashboards, alert rules and Prometheus' configuration, ready to use.

    A [cyan]README.md[/cyan] beside them says how, with Docker, by hand, and on Kubernetes.

    [bold]Examples[/bold]

    [cyan]$ headrace metrics export ./monitoring[/cyan]
    [cyan]$ headrace metrics export ./monitoring --target gpu1:8000 --target gpu2:8000 --p99-ms 300[/cyan]
    """
    from headrace.cli.messages import out
    from headrace.config.instance import InstanceConfig
    from headrace.observe.monitoring.bundle import DEFAULT_TARGET, monitoring_files
    from headrace.observe.monitoring.description import Objectives

    targets = target or [DEFAULT_TARGET]
    _check(targets, p99_ms, error_percent)
    instance = InstanceConfig.from_user(metrics_prefix=prefix)
    files = monitoring_files(instance.metrics_prefix, targets, Objectives(p99_ms, error_percent / 100))
    _write(folder, files, force)
    out.print(f"Wrote {len(files)} files. {folder / 'README.md'} says how to use them.", soft_wrap=True)


def _check(targets: Sequence[str], p99_ms: float, error_percent: float) -> None:
    for target in targets:
        host, _, port = target.rpartition(":")
        if not re.fullmatch(r"[^\s/:]+|\[[0-9a-fA-F:.]+\]", host) or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"--target must be HOST:PORT, such as localhost:8000, not '{target}'")
    if not p99_ms > 0:
        raise ConfigError(f"--p99-ms must be more than 0, not {p99_ms:g}")
    if not 0 < error_percent < 100:
        raise ConfigError(f"--error-percent must be more than 0 and less than 100, not {error_percent:g}")


def _write(folder: Path, files: Mapping[str, str], force: bool) -> None:
    """
    Raises:
        ConfigError: files are there already and hold something else, and `force` is not given; or the folder cannot be
            written to. In the first case nothing has been written.
    """
    try:
        changed = [path for path, text in files.items() if _holds_something_else(folder / path, text)]
        if changed and not force:
            listed = "\n".join(f"  {folder / path}" for path in changed)
            raise ConfigError(f"files are there already, with other contents; --force overwrites them:\n{listed}")
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to '{folder}': {error.strerror}: '{error.filename}'") from None


def _holds_something_else(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() != text.encode()
    except FileNotFoundError:
        return False


metrics.command(help=reflow(export.__doc__ or ""))(export)
