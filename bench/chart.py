"""Draw a result: `python -m bench.chart RESULT.json` writes PNG files beside it. Needs matplotlib."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]
from matplotlib import patheffects  # type: ignore[import-not-found,unused-ignore]
from matplotlib import pyplot as plt  # type: ignore[import-not-found,unused-ignore]
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # type: ignore[import-not-found,unused-ignore]

from bench.peer import Peer
from bench.peers import PEERS
from bench.result import Run, load
from bench.workload import CORE, GROWTH, Workload

# One colour per peer in every chart: ours saturated, the two of Ray akin, the bare frameworks grey.
COLOURS = {
    "headrace": "#0b6fc2",
    "ray": "#e8a33d",
    "ray-fast": "#b8651b",
    "mosec": "#4f9d69",
    "litserve": "#8e6bbf",
    "bentoml": "#c95d78",
    "fastapi": "#7f8a94",
    "starlette": "#a9b1b8",
}
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]  # keeps labels legible over the goal's line
_INK, _FAINT = "#22272b", "#8a9299"
_AXES = {
    "start": ("ready_s", "seconds, less is better"),
    "new-replica": ("ready_s", "seconds, less is better"),
    "scale": ("ready_s", "seconds, less is better"),
    "memory": ("memory_mb", "MB (sum of PSS), less is better"),
    "load": ("requests_per_s", "requests/s, more is better"),
}


def short(value: float) -> str:
    """A figure as a label: three significant digits, with k and M."""
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if suffix == 'k' else 1e6):.3g}{suffix}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(axes: Any, run: Run, workload: Workload, peers: Sequence[Peer], figure: str, axis_title: str) -> None:
    """One panel: a bar per peer, its value beside it, and the goal as a dashed line."""
    results = [run.find(workload.name, peer.name) for peer in peers]
    values = [result.median(figure) if result else None for result in results]
    shown = [value for value in values if value is not None]
    goal = workload.goal if figure == _AXES[workload.kind][0] else None
    top = 1.28 * max([*shown, goal or 0.0, 1e-9])
    for row, (peer, result, value) in enumerate(zip(peers, results, values, strict=True)):
        if value is not None and result is not None:
            axes.barh(row, value, height=0.72, color=COLOURS.get(peer.name, _FAINT))
            text = (
                ("~" if result.disturbed else "")
                + short(value)
                + (f"  ({result.errors:,} errors)" if result.errors else "")
            )
            axes.text(value + 0.015 * top, row, text, va="center", fontsize=8, color=_INK, path_effects=_HALO)
        else:
            status = result.status if result and result.status != "ok" else "not measured"
            axes.text(
                0.015 * top, row, status, va="center", fontsize=7.5, color=_FAINT, style="italic", path_effects=_HALO
            )
    if goal:
        axes.axvline(goal, color=_INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1.5)
        axes.text(goal, -0.62, f"goal {short(goal)}", fontsize=7, color=_INK, ha="center", va="bottom")
    axes.set_xlim(0, top)
    axes.set_ylim(len(peers) - 0.45, -0.65)
    axes.set_yticks(range(len(peers)), [peer.title for peer in peers], fontsize=8)
    connections = next((one.connections for one in results if one and one.connections), None)
    axes.set_title(
        workload.title + (f", {connections} connections" if connections else ""),
        fontsize=9.5,
        loc="left",
        pad=13 if goal else 6,
    )
    axes.set_xlabel(axis_title, fontsize=7.5, color=_FAINT)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) if value else "0"))
    axes.tick_params(axis="x", labelsize=7.5, colors=_FAINT)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e7ea", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cfd4d8")


def panels(run: Run, workloads: Sequence[Workload], peers: Sequence[Peer], cpu: bool, title: str, path: Path) -> None:
    """A page of panels, one per workload."""
    columns = min(3, len(workloads))
    rows = -(-len(workloads) // columns)
    height = rows * (0.95 + 0.27 * len(peers)) + 0.6
    page, grid = plt.subplots(rows, columns, figsize=(5.2 * columns, height), squeeze=False, layout="constrained")
    for axes, workload in zip(grid.flat, workloads, strict=False):
        figure, axis_title = ("cpu_ms", "CPU per request, ms, less is better") if cpu else _AXES[workload.kind]
        bars(axes, run, workload, peers, figure, axis_title)
    for axes in grid.flat[len(workloads) :]:
        axes.set_visible(False)
    finish(page, run, title, path)


def growth(run: Run, groups: Sequence[str], peers: Sequence[Peer], path: Path) -> None:
    """Throughput, CPU per request and memory over the size of each growth series; both axes logarithmic."""
    names = {"routes": "deployments with routes", "replicas": "replicas", "payload": "bytes of payload"}
    figures = (("requests_per_s", "requests/s"), ("cpu_ms", "CPU per request, ms"), ("memory_mb", "memory, MB (PSS)"))
    page, grid = plt.subplots(
        len(figures), len(groups), figsize=(4.8 * len(groups), 8.4), squeeze=False, layout="constrained", sharex="col"
    )
    for column, group in enumerate(groups):
        for row, (figure, axis_title) in enumerate(figures):
            axes = grid[row][column]
            for peer in peers:
                points = [
                    (workload.size, value)
                    for workload in GROWTH
                    if workload.group == group
                    and (result := run.find(workload.name, peer.name)) is not None
                    and (value := result.median(figure)) is not None
                ]
                if points:
                    sizes, values = zip(*points, strict=True)
                    colour = COLOURS.get(peer.name, _FAINT)
                    axes.plot(sizes, values, marker="o", markersize=3.5, linewidth=1.6, color=colour, label=peer.title)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylabel(axis_title, fontsize=8)
            axes.set_xticks([workload.size for workload in GROWTH if workload.group == group])
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axes.tick_params(labelsize=7.5, colors=_FAINT, which="both")
            axes.grid(color="#e4e7ea", linewidth=0.7)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        grid[0][column].set_title(f"over {names[group]}", fontsize=9.5, loc="left")
        grid[-1][column].set_xlabel(names[group], fontsize=8)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        page.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    finish(page, run, "How cost grows", path)


def finish(page: Any, run: Run, title: str, path: Path) -> None:
    machine = (
        f"{run.machine['cpu']}, {run.machine['cores']} cores; load generator on the same machine; {run.started[:10]}"
    )
    if any(result.disturbed for result in run.results):
        machine += "; ~ other processes were busy meanwhile"
    page.suptitle(f"{title}\n", fontsize=13, x=0.01, ha="left", color=_INK)
    page.text(0.01, 1 - 0.36 / page.get_figheight(), machine, fontsize=8, color=_FAINT, ha="left", va="top")
    page.savefig(path, dpi=130)
    plt.close(page)


def draw(run: Run, path: Path) -> list[Path]:
    """Write the charts for which the run has results, beside `path`. Returns the files."""
    matplotlib.use("Agg")
    measured = {one.workload for one in run.results}
    peers = [peer for peer in PEERS if any(one.peer == peer.name and one.status == "ok" for one in run.results)]
    if not peers:
        return []
    core = [workload for workload in CORE if workload.name in measured]
    written = []
    if core:
        written.append(path.with_suffix(".png"))
        panels(run, core, peers, False, "The same applications, side by side", written[-1])
    if loaded := [workload for workload in core if workload.kind == "load"]:
        written.append(path.with_name(f"{path.stem}-cpu.png"))
        panels(run, loaded, peers, True, "What a request costs the server", written[-1])
    groups = list(dict.fromkeys(workload.group for workload in GROWTH if workload.name in measured))
    if groups:
        written.append(path.with_name(f"{path.stem}-growth.png"))
        growth(run, groups, peers, written[-1])
    return written


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for chart in draw(load(Path(argument)), Path(argument)):
            print(chart)
