"""The page of `headrace top`: what fits, what comes first, and how figures are written."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headrace.cli.scrape_rates import Load
from headrace.cli.top_rows import Sort, for_programs, page_of
from headrace.cli.top_view import TopView, fitting, number, size


def status(*names: str) -> dict[str, Any]:
    def deployment(name: str) -> dict[str, Any]:
        states = {"RUNNING": 1, "STARTING": 1}
        return {"name": name, "status": "UPSCALING", "replica_states": states, "target_num_replicas": 2}

    nodes = [{"alive": True, "resources": {"CPU": 2, "memory": 4e9}}]
    applications = [{"name": "shop", "deployments": [deployment(name) for name in names]}]
    return {"version": "1.2", "applications": applications, "nodes": nodes}


BUSY = Load(
    requests_per_s=1234.6,
    errors_per_s=0.4,
    buckets={100.0: 0.0, 200.0: 10.0, math.inf: 10.0},
    ongoing=17,
    queued=3,
    cpu_percent=187.0,
    memory_bytes=3.2e9,
)


def shown(width: int, height: int = 24, sort: Sort = Sort.requests, names: tuple[str, ...] = ("A", "B")) -> list[str]:
    page = page_of("http://127.0.0.1:8265", status(*names), {("shop", "B"): BUSY}, 2.0, sort)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(TopView(page, sort, keys=True))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_wide_terminal_shows_everything() -> None:
    text = "\n".join(shown(160))
    for part in ("UPSCALING", "1/2", "1,235", "0.4", "150", "199", "17", "187", "3.2 GB", "MEMORY", "P50 MS", "–"):
        assert part in text
    assert "1 application  2 deployments  2/4 replicas" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    names = ("A" * 70, "B")
    assert all(len(line.rstrip()) <= width for line in shown(width, names=names))


def test_at_80_columns_what_matters_most_is_there() -> None:
    text = "\n".join(shown(80))
    assert all(heading in text for heading in ("REPLICAS", "REQ/S", "ERR/S", "P99 MS", "QUEUED"))
    assert "MEMORY" not in text


def test_more_deployments_than_lines_are_said_to_be_more() -> None:
    lines = shown(80, height=20, names=tuple(f"d{number}" for number in range(50)))
    assert len(lines) <= 20
    assert any("more" in line for line in lines)


def test_rows_are_sorted_with_the_highest_first_and_the_column_is_marked() -> None:
    by_requests, by_name = shown(120), shown(120, sort=Sort.name)
    assert "REQ/S▾" in "\n".join(by_requests) and "▾" not in "\n".join(by_name)
    assert [line.split()[2] for line in by_requests if line.startswith("shop")] == ["B", "A"]
    assert [line.split()[2] for line in by_name if line.startswith("shop")] == ["A", "B"]


def test_programs_are_told_the_same() -> None:
    page = page_of("", status("B"), {("shop", "B"): BUSY}, 2.0, Sort.name)
    [told] = for_programs(page, 17.0)["deployments"]
    assert (told["requests_per_s"], told["queued"], told["replicas"], told["target_replicas"]) == (1234.6, 3, 1, 2)
    assert told["p50_ms"] == 150.0


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.integers(1, 20), st.integers(0, 5))), st.integers(0, 200))
def test_columns_are_dropped_only_as_far_as_they_must_be(columns: dict[str, tuple[int, int]], room: int) -> None:
    kept = fitting(columns, room)
    assert [name for name in columns if name in kept] == kept
    assert all(name in kept for name, (_, dropped) in columns.items() if not dropped)
    taken = sum(columns[name][0] + 2 for name in kept)
    assert taken <= room or all(columns[name][1] == 0 for name in kept)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0"), (0.04, "<0.1"), (0.44, "0.4"), (9.94, "9.9"), (9.96, "10"), (12.6, "13"), (1234567.0, "1,234,567")],
)
def test_numbers_are_short(value: float, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize(
    ("amount", "written"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (3.2e9, "3.2 GB"), (5e15, "5,000 TB")]
)
def test_sizes_have_the_unit_that_suits(amount: float, written: str) -> None:
    assert size(amount) == written
