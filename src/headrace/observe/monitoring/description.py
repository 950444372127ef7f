"""What a dashboard is, before it is anybody's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "table", "heatmap"]


@dataclass(frozen=True, slots=True)
class Query:
    """
    Attributes:
        expression: PromQL with the dashboard's variables, without the prefix of names.
        legend: how each series is called, with `{{label}}` for a label's value.
        quiet: why it has nothing to show where all is well, or where the thing is not in use; "" where it always has.
    """

    expression: str
    legend: str = ""
    quiet: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """From this value on, that colour."""

    value: float
    color: Literal["green", "yellow", "orange", "red"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """
    Attributes:
        unit: Grafana's name of it.
        width: of 24. `height`: in rows of some 30 pixels.
        thresholds: below the first one all is well.
        stacked: whether the series add up to something.
        maximum: of the axis, where there is one by nature.
        columns: of a table: what its queries are called, in their order. `values`: texts of a column's numbers.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    thresholds: tuple[Threshold, ...] = ()
    stacked: bool = False
    maximum: float | None = None
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `texts`: what a number stands for, and its colour."""

    title: str
    unit: str = "short"
    thresholds: tuple[Threshold, ...] = ()
    texts: dict[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading. `collapsed`: opened by who needs it."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """What the reader chooses: values of a label, as a metric has them."""

    name: str
    title: str
    metric: str
    label: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Moments that are marked in every panel: when the query has a value that is not 0."""

    title: str
    query: Query
    color: str
    shown: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...] = ()

    def queries(self) -> Iterator[tuple[str, Query]]:
        """All its queries, each with the title of what it is for."""
        for row in self.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield panel.title, query
        for annotation in self.annotations:
            yield annotation.title, annotation.query


@dataclass(frozen=True, slots=True)
class Objectives:
    """What is good enough: where panels turn red and alerts fire.

    Attributes:
        p99_ms: the longest that one request in a hundred may take, milliseconds.
        error_share: of requests that may fail, 0 to 1.
    """

    p99_ms: float = 1000.0
    error_share: float = 0.05
