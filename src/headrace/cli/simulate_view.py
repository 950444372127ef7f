"""A simulation as people read it on a terminal."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headrace.config import AutoscalingConfig
from headrace.simulate.autoscaling import Deployment
from headrace.simulate.result import Change, Result, Totals
from headrace.simulate.trace import LoadTrace


def what_is_simulated(name: str | None, deployment: Deployment, trace: LoadTrace) -> tuple[str, str]:
    """A title, and a line with the settings."""
    scaling = deployment.autoscaling
    service = deployment.service
    spread = f" ± {service.variation * service.mean_s:g}" if service.variation else ""
    concurrency = deployment.concurrency or deployment.max_ongoing_requests
    title = (
        f"{name or 'A deployment'} under the trace '{trace.name}': "
        f"{duration(trace.duration_s)}, up to {trace.rates.max():,.4g} requests/s"
    )
    settings = [
        f"{scaling.min_replicas} to {scaling.max_replicas} replicas",
        *([f"of these {deployment.target_capacity:g} %"] if deployment.target_capacity is not None else []),
        *([f"a schedule of {len(scaling.schedule)}"] if scaling.schedule else []),
        *_scaling(scaling),
        f"a request takes {service.mean_s:g}{spread} s",
        f"a replica starts in {deployment.start_s:g} s",
        f"and works on {concurrency} of up to {deployment.max_ongoing_requests} requests at a time",
    ]
    return title, ", ".join(settings)


def _scaling(config: AutoscalingConfig) -> list[str]:
    up, down = config.effective_upscaling_factor, config.effective_downscaling_factor
    return [
        *([f"{config.target_ongoing_requests:g} ongoing requests each"] if config.target_ongoing_requests else []),
        *([f"a p99 of {config.target_latency_p99_s:g} s"] if config.target_latency_p99_s else []),
        f"reported every {config.metrics_interval_s:g} s",
        f"{config.aggregation_function.value} over {config.look_back_period_s:g} s",
        f"up after {config.upscale_delay_s:g} s, down after {config.downscale_delay_s:g} s",
        *([f"factors {up:g} up and {down:g} down"] if (up, down) != (1, 1) else []),
    ]


def summary(result: Result, title: str, subtitle: str, decisions: int) -> RenderableType:
    """All that is printed; at most `decisions` of them."""
    parts: list[RenderableType] = [Text(title, style="bold"), Text(subtitle, style="bright_black")]
    parts.append(Padding(_totals(result), (1, 0, 0, 0)))
    if decisions:
        parts.append(_decisions(result.changes, decisions))
    return Group(*parts)


def _totals(result: Result) -> Table:
    totals = result.totals
    ups = sum(change.after > change.before for change in result.changes)
    left = (
        ("requests", Text(f"{totals.requests:,}")),
        ("refused", _alarming(f"{totals.refused:,}", totals.refused > 0)),
        ("unanswered at the end", Text(f"{totals.unanswered:,}")),
        ("latency, median", Text(seconds(totals.latency_p50_s))),
        ("latency, p99", _alarming(seconds(totals.latency_p99_s), totals.latency_p99_s > totals.latency_target_s)),
        ("latency, highest", Text(seconds(totals.latency_max_s))),
    )
    right = (
        ("replica-hours", Text(f"{totals.replica_hours:,.2f}")),
        ("replicas on average", Text(f"{totals.mean_replicas:,.2f}")),
        ("replicas at most", Text(f"{totals.most_replicas:,}")),
        ("places in use", Text("" if math.isnan(totals.utilization) else f"{totals.utilization:.0%}")),
        ("decisions up, down", Text(f"{ups}, {len(result.changes) - ups}")),
        (f"p99 above {seconds(totals.latency_target_s)}", _time_above(totals)),
    )
    grid = Table.grid(padding=(0, 4, 0, 0))
    for justify in ("left", "right") * 2:
        grid.add_column(justify=justify, no_wrap=True)
    for (one, value), (other, value_of_other) in zip(left, right, strict=True):
        grid.add_row(Text(one, style="bright_black"), value, Text(other, style="bright_black"), value_of_other)
    return grid


def _time_above(totals: Totals) -> Text:
    if not totals.above_target_s:
        return Text("never", style="green")
    share = totals.above_target_s / totals.duration_s
    return Text(f"{duration(totals.above_target_s)} ({share:.1%})", style="yellow" if share < 0.01 else "red")


def _alarming(text: str, alarming: bool) -> Text:
    return Text(text, style="red" if alarming else "")


def _decisions(changes: list[Change], at_most: int) -> RenderableType:
    if not changes:
        return Padding(Text("No decision changed the number of replicas.", style="bright_black"), (1, 0, 0, 0))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bright_black", padding=(0, 2, 0, 0))
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("replicas", no_wrap=True)
    table.add_column("because")
    for change in changes[:at_most]:
        style = "green" if change.after > change.before else "yellow"
        table.add_row(clock(change.time_s), Text(f"{change.before:>3} → {change.after}", style=style), change.reason)
    left = len(changes) - at_most
    if left > 0:
        table.add_row("", "", Text(f"and {left:,} more: --decisions {len(changes)}", style="bright_black"))
    return table


def clock(time_s: float) -> str:
    """`h:mm:ss` since the start of the trace."""
    whole = int(time_s)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def duration(length_s: float) -> str:
    """Two units at most: `1 h 30 min`, `45.5 s`."""
    if length_s < 60:
        return f"{length_s:.3g} s"
    minutes, rest_s = divmod(round(length_s), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s" if rest_s else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def seconds(value: float) -> str:
    """A latency: `85 ms`, `1.25 s`."""
    if math.isnan(value):
        return "none"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
