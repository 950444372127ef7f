"""The results as one table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bench.peer import Peer
from bench.result import Result, Run
from bench.workload import Workload


def number(value: float | None, unit: str = "") -> str:
    """Three significant digits, thousands separated; an empty string for None."""
    if value is None:
        return ""
    if value >= 100:
        text = f"{value:,.0f}"
    elif value >= 10:
        text = f"{value:.1f}"
    elif value >= 1:
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}"
    return f"{text} {unit}".rstrip()


def goal_of(workload: Workload) -> str:
    """The workload's goal in words; an empty string where there is none."""
    if workload.goal is None:
        return ""
    units = {"load": "/s", "start": " s", "new-replica": " s", "scale": " s", "memory": " MB"}
    return f"goal {workload.goal:,g}{units[workload.kind]}"


def cells(result: Result) -> list[str]:
    """A result's figures in the order of the table's columns."""
    mark = "~" if result.disturbed else ""
    throughput = result.median("requests_per_s")
    return [
        mark + number(throughput) if throughput is not None else "",
        number(result.median("p50_ms"), "ms"),
        number(result.median("p99_ms"), "ms"),
        number(result.median("cpu_ms"), "ms"),
        number(result.median("memory_mb"), "MB"),
        number(result.median("ready_s"), "s"),
        f"{result.errors:,}" if result.errors else "",
    ]


def table_of(run: Run, workloads: Sequence[Workload], peers: Sequence[Peer]) -> Table:
    """One section per workload, one row per peer. What was not measured says why; nothing is left out."""
    table = Table(title="Requests per second, latency and what they cost", title_justify="left", caption_justify="left")
    table.add_column("workload", max_width=30)
    table.add_column("peer", no_wrap=True)
    for heading in ("requests/s", "p50", "p99", "CPU/request", "memory", "ready", "errors"):
        table.add_column(heading, justify="right", no_wrap=True)
    disturbed = False
    for workload in workloads:
        heads = _heads(run, workload, len(peers))
        for position, peer in enumerate(peers):
            result = run.find(workload.name, peer.name)
            head = heads[position] if position < len(heads) else ""
            last = position == len(peers) - 1
            if result is None:
                table.add_row(head, peer.title, Text("not measured", style="dim"), end_section=last)
            elif result.status == "ok":
                disturbed |= result.disturbed
                *figures, errors = cells(result)
                table.add_row(head, peer.title, *figures, Text(errors, style="bold red"), end_section=last)
            else:
                style = "bold red" if result.status == "failed" else "dim"
                table.add_row(head, peer.title, Text(result.status, style=style), end_section=last)
    table.caption = "CPU/request and memory (sum of PSS) count all processes of the server; medians of all repeats."
    if disturbed:
        table.caption += "\n~ other processes kept more than a tenth of a core busy: measure again on a quiet machine."
    return table


def _heads(run: Run, workload: Workload, rows: int) -> list[str]:
    """What stands in the first column beside a workload's rows; several lines in the last where the rows are few."""
    connections = next((one.connections for one in run.results if one.workload == workload.name and one.connections), 0)
    heads = [workload.title, f"{connections} connections" if connections else "", goal_of(workload)]
    lines = [head for head in heads if head]
    return [*lines[: rows - 1], "\n".join(lines[rows - 1 :])]
