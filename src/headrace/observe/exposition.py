"""Prometheus' text format, in pieces that can be put together: each process renders its own samples, and whoever is
scraped only joins the pieces, so that a large instance's scrape does not block a proxy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


_OF_OPEN_METRICS = ("_created", "_gsum", "_gcount")
"""Samples that this format knows no place for within their family."""


class Family(msgspec.Struct, array_like=True):
    """The samples of one metric in one process. `head` is its HELP line; `lines` are its samples, a line each."""

    name: str
    type: str
    head: str
    lines: str


class _One:
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


def render(metric: Metric, prefix: str, labels: dict[str, str]) -> Family | None:
    """One metric as text; None where it has no samples.

    Args:
        prefix: goes before every name.
        labels: go with every sample that has no labels of these names.
    """
    from prometheus_client import generate_latest
    from prometheus_client.core import Metric, Sample

    named = Metric(prefix + metric.name, metric.documentation, metric.type)
    for sample in metric.samples:
        if sample.name.removeprefix(metric.name) not in _OF_OPEN_METRICS:
            tags = {**labels, **sample.labels} if labels else sample.labels
            named.samples.append(Sample(prefix + sample.name, tags, sample.value, sample.timestamp))
    if not named.samples:
        return None
    head, kind, lines = generate_latest(_One(named)).decode().split("\n", 2)
    _, _, name, type_ = kind.split(" ")
    return Family(name, type_, head, lines)


def merge(processes: Iterable[Iterable[Family]]) -> bytes:
    """One exposition of several processes' metrics: each family once, with the samples of all.

    Where processes disagree on a family's type (two versions of user code), the first one's samples are taken: a
    scrape with both would be refused as a whole.
    """
    merged: dict[str, tuple[Family, list[str]]] = {}
    for families in processes:
        for family in families:
            known = merged.get(family.name)
            if known is None:
                merged[family.name] = (family, [family.lines])
            elif known[0].type == family.type:
                known[1].append(family.lines)
    return "".join(
        f"{family.head}\n# TYPE {family.name} {family.type}\n{''.join(lines)}" for family, lines in merged.values()
    ).encode()
