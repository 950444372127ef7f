"""Compare two results: `python -m bench.compare OLD.json NEW.json [--threshold PERCENT]`.

Ends with status 1 if the CPU time per request of any workload on any peer grew by more than the threshold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.result import Result, Run, load
from bench.table import number


@dataclass(frozen=True)
class Change:
    """One workload on one peer, before and after. Changes are percent of the old value; None where a side lacks it.

    Attributes:
        verdict: "slower" or "faster" where CPU per request changed by more than the threshold; "same"; "broken" where
            it was measured before and failed now; "fixed" the other way round; "new" or "gone" where only one run
            has it.
        noisy: whether the repeats of the two runs overlap, so that the change may be chance.
    """

    workload: str
    peer: str
    old_cpu_ms: float | None
    new_cpu_ms: float | None
    cpu_change: float | None
    throughput_change: float | None
    p99_change: float | None
    verdict: str
    noisy: bool


def percent(old: float | None, new: float | None) -> float | None:
    """How much larger `new` is, in percent of `old`."""
    return None if old is None or new is None or old == 0 else 100.0 * (new - old) / old


def overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the ranges of two samples overlap."""
    return bool(first and second) and max(min(first), min(second)) <= min(max(first), max(second))


def compare(old: Run, new: Run, threshold: float = 5.0) -> list[Change]:
    """Every workload and peer that either run measured, in the order of the new run, then what is gone."""
    keys = [(one.workload, one.peer) for one in new.results]
    keys += [key for one in old.results if (key := (one.workload, one.peer)) not in keys]
    changes = [_change(key, old.find(*key), new.find(*key), threshold) for key in keys]
    return [change for change in changes if change is not None]


def _change(key: tuple[str, str], old: Result | None, new: Result | None, threshold: float) -> Change | None:
    was = old is not None and old.status == "ok"
    now = new is not None and new.status == "ok"
    if not was and not now:
        return None

    def change(figure: str) -> float | None:
        return percent(old.median(figure) if old else None, new.median(figure) if new else None)

    cpu = change("cpu_ms")
    if was and now:
        verdict = "same" if cpu is None or abs(cpu) <= threshold else "slower" if cpu > 0 else "faster"
    elif was:
        verdict = "broken" if new is not None and new.status == "failed" else "gone"
    else:
        verdict = "fixed" if old is not None and old.status == "failed" else "new"
    return Change(
        workload=key[0],
        peer=key[1],
        old_cpu_ms=old.median("cpu_ms") if old else None,
        new_cpu_ms=new.median("cpu_ms") if new else None,
        cpu_change=cpu,
        throughput_change=change("requests_per_s"),
        p99_change=change("p99_ms"),
        verdict=verdict,
        noisy=old is not None and new is not None and overlap(old.values("cpu_ms"), new.values("cpu_ms")),
    )


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f} %"


def table_of(changes: Sequence[Change]) -> Table:
    styles = {"slower": "bold red", "broken": "bold red", "faster": "green", "fixed": "green"}
    table = Table()
    for heading in ("workload", "peer"):
        table.add_column(heading, no_wrap=True)
    for heading in ("CPU before", "CPU after", "change", "requests/s", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict")
    for change in changes:
        uncertain = change.noisy and change.verdict in ("slower", "faster")
        verdict = change.verdict + (" (within the spread of the repeats)" if uncertain else "")
        table.add_row(
            change.workload,
            change.peer,
            number(change.old_cpu_ms, "ms"),
            number(change.new_cpu_ms, "ms"),
            _signed(change.cpu_change),
            _signed(change.throughput_change),
            _signed(change.p99_change),
            Text(verdict, style=styles.get(change.verdict, "")),
        )
    return table


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Compare CPU per request of two runs.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help="flag above (default: 5)")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    try:
        old, new = load(options.old), load(options.new)
    except (OSError, ValueError) as error:
        console.print(f"[red]{error}[/red]")
        return 2
    if old.machine != new.machine:
        console.print("[yellow]the two runs are from different machines or systems[/yellow]", old.machine, new.machine)
    changes = compare(old, new, options.threshold)
    console.print(table_of(changes))
    return 1 if any(change.verdict in ("slower", "broken") for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
