"""A simulation as a picture: load, replicas, requests and latency over one axis of time. Needs matplotlib."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headrace.exceptions import ConfigError
from headrace.simulate.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT, _GRID = "#22272b", "#6f7980", "#e4e7ea"
_CHARACTERS = 150  # of small type that fit side by side
_BLUE, _ORANGE, _RED, _GREY = "#0b6fc2", "#e8a33d", "#c9413a", "#c3cad0"


def write_chart(result: Result, path: Path, *, title: str, subtitle: str = "") -> None:
    """Draw a result.

    Args:
        path: the ending decides the format: png, svg, pdf.
        title, subtitle: what stands above it.

    Raises:
        ConfigError: the format is not known, or the file cannot be written.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(10.5, 8.8), layout="constrained")
    formats = FigureCanvasAgg(page).get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in formats:
        raise ConfigError(
            f"--output: the name must end in {', '.join('.' + name for name in formats)}, not '{path.name}'"
        )
    load, replicas, requests, latency = page.subplots(4, 1, sharex=True, height_ratios=(1.0, 1.25, 1.0, 1.25))
    unit_s, unit = _time_unit(result.totals.duration_s)
    # Each row stands for the stretch that ends at its time.
    times = np.concatenate(([0.0], result.column("time_s"))) / unit_s
    _draw_load(load, times, result)
    _draw_replicas(replicas, times, result)
    _draw_requests(requests, times, result)
    _draw_latency(latency, times, result)
    for axes in (load, replicas, requests, latency):
        _finish(axes)
    latency.set_xlabel(unit, color=_FAINT, fontsize=9)
    latency.set_xlim(0, times[-1])
    if unit_s == 3600 and times[-1] == 24:
        latency.set_xticks(range(0, 25, 3), [f"{hour:02}:00" for hour in range(0, 25, 3)])
        latency.set_xlabel("time of day", color=_FAINT, fontsize=9)
    page.suptitle(title, x=0.012, ha="left", fontsize=13, color=_INK, fontweight="bold")
    if subtitle:
        text = "\n".join(textwrap.wrap(re.sub(r"(\d) s\b", "\\1\N{NO-BREAK SPACE}s", subtitle), _CHARACTERS))
        load.annotate(text, (0, 1), (-32, 26), "axes fraction", "offset points", fontsize=9, color=_FAINT)
    try:
        page.savefig(path, dpi=130)
    except OSError as error:
        raise ConfigError(f"--output: cannot write '{path}': {error.strerror}") from None


def _draw_load(axes: Axes, times: np.ndarray, result: Result) -> None:
    axes.stairs(result.column("load"), times, fill=True, color=_BLUE, alpha=0.16, lw=0)
    axes.stairs(result.column("load"), times, color=_BLUE, lw=1.2, baseline=None)
    _name(axes, "Load", "requests/s")


def _draw_replicas(axes: Axes, times: np.ndarray, result: Result) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.stairs(result.column("running"), times, fill=True, color=_GREY, alpha=0.75, lw=0, label="running")
    axes.stairs(result.column("target"), times, color=_BLUE, lw=1.4, baseline=None, label="wanted")
    axes.set_ylim(0, max(1.0, float(result.column("target").max())) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    _name(axes, "Replicas", "")
    _legend(axes)


def _draw_requests(axes: Axes, times: np.ndarray, result: Result) -> None:
    ongoing, queued = result.column("ongoing"), result.column("queued")
    axes.stairs(ongoing, times, fill=True, color=_BLUE, alpha=0.45, lw=0, label="at replicas")
    axes.stairs(ongoing + queued, times, baseline=ongoing, fill=True, color=_ORANGE, lw=0, label="queued at callers")
    refused = result.column("refused")
    if refused.any():
        axes.stairs(refused, times, color=_RED, lw=1.1, baseline=None, label=f"refused in {result.row_s:g} s")
    _name(axes, "Requests", "at the same time, on average")
    _legend(axes)


def _draw_latency(axes: Axes, times: np.ndarray, result: Result) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    middle, high = result.column("latency_p50_s"), result.column("latency_p99_s")
    waited = result.column("oldest_wait_s")
    # While nobody is answered, the longest wait is what users see.
    high = np.where(np.isnan(high) & (waited > 0), waited, high)
    target_s = result.totals.latency_target_s
    axes.stairs(high, times, color=_RED, lw=1.2, baseline=None, label="99th percentile")
    axes.stairs(middle, times, color=_BLUE, lw=1.2, baseline=None, label="median")
    axes.axhline(target_s, color=_INK, lw=0.9, ls=(0, (4, 3)), label=f"{target_s:g} s")
    axes.set_yscale("log")
    seen = np.concatenate((middle, high, [target_s]))
    lowest, highest = np.nanmin(seen) / 1.4, np.nanmax(seen) * 1.4
    axes.set_ylim(lowest, max(highest, 10 * lowest))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if highest > 300 * lowest else (1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(lambda value, _: _seconds(value))
    axes.yaxis.set_minor_locator(NullLocator())
    _name(axes, "Latency", f"of the requests answered in {result.row_s:g} s")
    _legend(axes)


def _name(axes: Axes, what: str, unit: str) -> None:
    label = axes.annotate(
        what, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=10, color=_INK, fontweight="bold"
    )
    axes.annotate(unit, (1, 0), (6, 0), label, "offset points", fontsize=8.5, color=_FAINT, va="bottom")


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=4, frameon=False, fontsize=8.5, labelcolor=_FAINT,
        handlelength=1.4, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip


def _finish(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=_FAINT, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)


def _time_unit(duration_s: float) -> tuple[float, str]:
    for unit_s, name in ((3600.0, "hours"), (60.0, "minutes")):
        if duration_s >= 3 * unit_s:
            return unit_s, name
    return 1.0, "seconds"


def _seconds(value: float) -> str:
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"
