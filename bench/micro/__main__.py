"""`python -m bench.micro`: time every case, print one table."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from bench.micro.codec_cases import codec_cases, shared_memory_cases
from bench.micro.frame_cases import frame_cases
from bench.micro.metric_cases import metric_cases
from bench.micro.timing import Case, time_case


@contextmanager
def all_cases() -> Iterator[list[Case]]:
    with shared_memory_cases() as shared:
        yield [*frame_cases(), *codec_cases(), *shared, *metric_cases()]


def main() -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    table = Table(title="The request path, piece by piece", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("case", no_wrap=True)
    for heading in ("least", "median", "rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    with all_cases() as cases:
        group = ""
        for case in cases:
            if group and case.group != group:
                table.add_section()
            timing = time_case(case)
            rate = f"{case.nbytes / timing.median_s / 1e9:.2f} GB/s" if case.nbytes else ""
            head = case.group if case.group != group else ""
            table.add_row(head, case.name, f"{1e6 * timing.least_s:,.2f} µs", f"{1e6 * timing.median_s:,.2f} µs", rate)
            group = case.group
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
