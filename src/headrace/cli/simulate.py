"""`headrace simulate`"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.options import AppDir
from headrace.cli.reflow import reflow
from headrace.exceptions import ConfigError

if TYPE_CHECKING:
    from headrace.simulate.trace import LoadTrace

_INSTALL = "pip install 'headrace[simulate]'"

simulate = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help=reflow("""What your settings would do under a load, in virtual time.

    [bold]Examples[/bold]

    [cyan]$ headrace simulate autoscaling serve.yaml --trace day[/cyan]"""),
)


class ArrivalsOption(StrEnum):
    """How requests are spread over time."""

    POISSON = "poisson"
    EVEN = "even"


@simulate.callback()
def _group() -> None:
    pass


def autoscaling(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET] [KEY=VALUE]...",
            help="A YAML config file or an import path [cyan]module:app[/cyan], and options of [cyan]autoscaling_config"
            "[/cyan] that win over what is in it. [cyan]max_ongoing_requests[/cyan] and [cyan]max_queued_requests"
            "[/cyan] may be given too.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[str, typer.Option("--trace", "-t", metavar="steps|ramp|day|FILE.csv", help="The load.")] = "day",
    peak: Annotated[
        float | None,
        typer.Option("--peak", metavar="RPS", help="Its highest rate.", show_default="100, of a file its own"),
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", "-n", metavar="NAME", help="Which one.", show_default="the one that autoscales"),
    ] = None,
    service_time: Annotated[
        float, typer.Option("--service-time", "-s", metavar="S", help="A replica works on a request for so long.")
    ] = 0.1,
    service_variation: Annotated[
        float,
        typer.Option(
            "--service-variation", metavar="X", help="Its standard deviation over its mean; 0 for a fixed time."
        ),
    ] = 0.5,
    start_time: Annotated[
        float, typer.Option("--start-time", metavar="S", help="From the decision for a replica until it serves.")
    ] = 5.0,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="N",
            help="Requests that a replica works on at a time without slowing down: 1 for a model that computes.",
            show_default="max_ongoing_requests",
        ),
    ] = None,
    latency_target: Annotated[
        float | None,
        typer.Option(
            "--latency-target",
            metavar="S",
            help="What p99 should stay below.",
            show_default="target_latency_p99_s, or 5 service times",
        ),
    ] = None,
    begins_at: Annotated[
        datetime | None,
        typer.Option(
            "--begins-at",
            help="When the trace begins, for a schedule; in the time zone of its first entry.",
            show_default="a Monday at midnight",
        ),
    ] = None,
    target_capacity: Annotated[
        float | None,
        typer.Option("--target-capacity", metavar="%", help="Percentage of all replicas.", show_default="the file's"),
    ] = None,
    arrivals: Annotated[
        ArrivalsOption, typer.Option("--arrivals", help="Independent requests, or evenly spaced ones.")
    ] = ArrivalsOption.POISSON,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same result.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Chart to write: .png, .svg, .pdf.", show_default=False),
    ] = None,
    series: Annotated[
        Path | None,
        typer.Option("--series", metavar="FILE.csv", help="Write every figure over time.", show_default=False),
    ] = None,
    decisions: Annotated[
        int, typer.Option("--decisions", metavar="N", help="List at most so many decisions, 0 for none.")
    ] = 20,
    app_dir: AppDir = ".",
) -> None:
    """Replay a load against autoscaling settings, without waiting for it.

    A day takes a second or so. The code that decides is the one that decides in production. Requests arrive, wait where
    no replica has room, and are served; replicas take [cyan]--start-time[/cyan] to come up. You see what that costs and
    how long requests take.

    A file of your own has the columns [cyan]time_s[/cyan] and [cyan]requests_per_s[/cyan].

    [bold]Examples[/bold]

    [cyan]$ headrace simulate autoscaling serve.yaml --trace day --peak 200 -o day.png[/cyan]
    [cyan]$ headrace simulate autoscaling text_app:app -n Sentiment --trace last_week.csv[/cyan]
    [cyan]$ headrace simulate autoscaling min_replicas=0 max_replicas=10 --trace steps --start-time 30[/cyan]
    [cyan]$ headrace simulate autoscaling serve.yaml downscale_delay_s=60   [dim]# what if?[/dim][/cyan]
    """
    _check(
        {
            "--service-time": service_time,
            "--peak": peak,
            "--latency-target": latency_target,
            "--concurrency": concurrency,
        },
        {
            "--service-variation": service_variation,
            "--start-time": start_time,
            "--decisions": decisions,
            "--seed": seed,
        },
    )
    if target_capacity is not None and not 0 <= target_capacity <= 100:
        raise ConfigError(f"--target-capacity: must be from 0 to 100, not {target_capacity:g}")
    target, changed = _split(settings or [])
    _require_libraries(chart=output is not None)
    from headrace.cli.messages import err, out
    from headrace.cli.simulate_target import capacity_of, options_to_simulate
    from headrace.cli.simulate_view import summary, what_is_simulated
    from headrace.simulate.arrivals import ServiceTime
    from headrace.simulate.autoscaling import Deployment
    from headrace.simulate.autoscaling import simulate as run

    load = _trace(trace, peak)
    name, options = options_to_simulate(target, deployment, changed, app_dir)
    assert options.autoscaling_config is not None
    simulated = Deployment(
        autoscaling=options.autoscaling_config,
        service=ServiceTime(service_time, service_variation),
        start_s=start_time,
        max_ongoing_requests=options.max_ongoing_requests,
        concurrency=concurrency,
        max_queued_requests=None if options.max_queued_requests < 0 else options.max_queued_requests,
        target_capacity=capacity_of(target) if target_capacity is None else target_capacity,
        begins_at=begins_at,
    )
    with err.status("simulating"):
        result = run(
            simulated,
            load,
            seed=seed,
            poisson=arrivals is ArrivalsOption.POISSON,
            latency_target_s=latency_target,
        )
    title, subtitle = what_is_simulated(name, simulated, load)
    out.print(summary(result, title, subtitle, decisions))
    if output is not None:
        from headrace.simulate.chart import write_chart

        write_chart(result, output, title=title, subtitle=subtitle)
        err.print(f"Wrote {output}.", soft_wrap=True)
    if series is not None:
        result.write_csv(series)
        err.print(f"Wrote {series}.", soft_wrap=True)


simulate.command(help=reflow(autoscaling.__doc__ or ""))(autoscaling)


def _check(positive: dict[str, float | None], not_negative: dict[str, float]) -> None:
    for option, value in positive.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{option}: must be above 0, not {value:g}")
    for option, value in not_negative.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{option}: must be 0 or more, not {value:g}")


def _split(settings: list[str]) -> tuple[str | None, list[str]]:
    """What is simulated, and the options over it."""
    targets = [setting for setting in settings if "=" not in setting]
    if len(targets) > 1:
        raise ConfigError(f"give one config file or import path, and options as KEY=VALUE; not {' and '.join(targets)}")
    return (targets[0] if targets else None), [setting for setting in settings if "=" in setting]


def _require_libraries(chart: bool) -> None:
    from importlib.util import find_spec

    for library, wanted_for in (("numpy", "headrace simulate"), *((("matplotlib", "--output"),) if chart else ())):
        if find_spec(library) is None:
            raise ConfigError(f"{wanted_for} needs {library}, which is not installed here: {_INSTALL}")


def _trace(name: str, peak: float | None) -> LoadTrace:
    from headrace.config.problems import nearest
    from headrace.simulate.trace import TRACES, read_csv

    if name in TRACES:
        return TRACES[name](100.0 if peak is None else peak)
    path = Path(name)
    if not path.suffix:
        meant = nearest(name, TRACES)
        hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(TRACES)}, or a CSV file of your own"
        raise ConfigError(f"--trace: there is no trace '{name}'; {hint}")
    trace = read_csv(path)
    return trace if peak is None else trace.scaled(peak)
