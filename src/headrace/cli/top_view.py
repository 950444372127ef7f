"""`headrace top` as people see it: a line of totals, and a table with as many columns as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from headrace.cli.scrape_rates import Load
from headrace.cli.status_view import status_text
from headrace.cli.top_rows import Page, Row, Sort

_GAP = 2
_NAME = "DEPLOYMENT"
_NAME_AT_LEAST = 16
_DIM = "bright_black"
_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class _Column:
    """`dropped`: the higher, the sooner it goes where there is no room; 0 for never."""

    heading: str
    shown: Callable[[Row], Text]
    dropped: int = 0
    sort: Sort | None = None


def _of_load(shown: Callable[[Load], str], style: Callable[[Load], str] = lambda load: "") -> Callable[[Row], Text]:
    return lambda row: Text(shown(row.load), style=style(row.load))


_COLUMNS = (
    _Column("STATUS", lambda row: status_text(row.status), 3),
    _Column("REPLICAS", lambda row: Text(f"{row.ready}/{row.target}", "" if row.ready == row.target else "yellow")),
    _Column("REQ/S", _of_load(lambda load: number(load.requests_per_s)), 0, Sort.requests),
    _Column(
        "ERR/S",
        _of_load(lambda load: number(load.errors_per_s), lambda load: "red" if load.errors_per_s else ""),
        0,
        Sort.errors,
    ),
    _Column("P50 MS", _of_load(lambda load: _latency(load.latency_ms(0.5))), 4, Sort.p50),
    _Column("P99 MS", _of_load(lambda load: _latency(load.latency_ms(0.99))), 0, Sort.p99),
    _Column("ONGOING", _of_load(lambda load: number(round(load.ongoing))), 1, Sort.ongoing),
    _Column(
        "QUEUED",
        _of_load(lambda load: number(round(load.queued)), lambda load: "yellow" if load.queued else ""),
        0,
        Sort.queued,
    ),
    _Column("CPU %", _of_load(lambda load: number(round(load.cpu_percent))), 2, Sort.cpu),
    _Column("MEMORY", _of_load(lambda load: size(load.memory_bytes)), 5, Sort.memory),
)


class TopView:
    """A page on a terminal of any size.

    Args:
        sort: what the rows are ordered by, which is marked.
        note: said below the totals; empty for nothing.
        keys: whether somebody can press keys.
    """

    def __init__(self, page: Page, sort: Sort, note: str = "", keys: bool = False) -> None:
        self._page = page
        self._sort = sort
        self._note = note
        self._keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        above = [*_totals(self._page), *([Text(self._note, "yellow")] if self._note else []), Text("")]
        below = [Text(f"\nq quits, s sorts by another column ({self._sort})", _DIM)] if self._keys else []
        rows = self._page.rows
        if self._keys:
            lines = sum(len(text.wrap(console, options.max_width)) for text in above)
            rows = rows[: max(1, console.height - lines - 4)]
        if len(rows) < len(self._page.rows):
            below.insert(0, Text(f"… and {len(self._page.rows) - len(rows)} more", _DIM))
        if not rows:
            yield Group(*above, Text("No applications are deployed", _DIM), *below)
            return
        yield Group(*above, _table(rows, self._sort, options.max_width), *below)


def _totals(page: Page) -> list[Text]:
    total, machines = page.totals, f"{page.machines} machines" if page.machines > 1 else "1 machine"
    figures = [
        _counted(page.applications, "application"),
        _counted(len(page.rows), "deployment"),
        f"{page.ready}/{page.target} replicas",
        f"{number(total.requests_per_s)} requests/s",
        f"{number(total.errors_per_s)} errors/s",
        *([f"{number(total.refused_per_s)} refused/s"] if total.refused_per_s else []),
    ]
    of_machine = [
        f"{machines}, {page.cpus:g} CPUs, {size(page.memory_bytes)}",
        f"replicas take {number(round(total.cpu_percent))} % CPU and {size(total.memory_bytes)}",
    ]
    lines = [
        Text.assemble(("Headrace", "bold"), (f" {page.version}  {page.address}", _DIM)),
        Text("  ".join(figures)),
        Text("  ".join(of_machine), _DIM),
    ]
    if page.machines > 1:
        lines.append(Text("rates, latencies, CPU and memory are of the controller's machine alone", "yellow"))
    if page.unanswered:
        told = _counted(page.unanswered, "process", "processes")
        lines.append(Text(f"{told} did not answer, and are in no figure", "yellow"))
    return lines


def _table(rows: Sequence[Row], sort: Sort, width: int) -> RenderableType:
    cells = {column.heading: [column.shown(row) for row in rows] for column in _COLUMNS}
    headings = {column.heading: f"{column.heading}▾" if column.sort is sort else column.heading for column in _COLUMNS}
    widths = {
        heading: max(len(headings[heading]), *(text.cell_len for text in texts)) for heading, texts in cells.items()
    }
    name_width = min(max(len(_NAME), *(len(row.title) for row in rows)), max(_NAME_AT_LEAST, width // 3))
    kept = fitting({c.heading: (widths[c.heading], c.dropped) for c in _COLUMNS}, width - name_width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style=_DIM)
    spare = width - sum(widths[heading] + _GAP for heading in kept)
    table.add_column(_NAME, no_wrap=True, overflow="ellipsis", max_width=max(_NAME_AT_LEAST, spare - _GAP))
    for heading in kept:
        table.add_column(headings[heading], no_wrap=True, justify="left" if heading == "STATUS" else "right")
    for index, row in enumerate(rows):
        table.add_row(Text(row.title), *(cells[heading][index] for heading in kept))
    return table


def fitting(columns: dict[str, tuple[int, int]], room: int) -> list[str]:
    """The columns that there is room for, in their order.

    Args:
        columns: by heading, how wide one is, and how soon it is dropped: higher numbers go first, 0 never.
        room: columns of the terminal.
    """
    kept = dict(columns)
    for heading, (_, dropped) in sorted(columns.items(), key=lambda item: -item[1][1]):
        if dropped and sum(width + _GAP for width, _ in kept.values()) > room:
            del kept[heading]
    return list(kept)


def number(value: float) -> str:
    """A figure in at most one decimal: `0`, `<0.1`, `0.4`, `12`, `1,234`."""
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if 0 < abs(value) < 9.95 and value != round(value) else f"{value:,.0f}"


def size(amount: float) -> str:
    """Bytes in the unit that suits."""
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1000
    return f"{number(amount)} {unit}"


def _latency(milliseconds: float | None) -> str:
    return "–" if milliseconds is None else number(milliseconds)


def _counted(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or f'{one}s'}"
