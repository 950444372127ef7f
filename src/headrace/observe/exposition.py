"""Prometheus' text format, in pieces that can be put together: each process renders its own samples, and whoever is
scraped only joins the pieces, so that a large instance's scrape does not block a proxy.

`prometheus_client.generate_latest` writes the same text, several times slower; tests compare the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(msgspec.Struct, array_like=True):
    """The samples of one metric in one process. `head` is its HELP line; `lines` are its samples, a line each."""

    name: str
    type: str
    head: str
    lines: str


_OF_OPEN_METRICS = ("_created", "_gsum", "_gcount")
"""Samples that this format knows no place for within their family."""

# What OpenMetrics, whose types `Metric` has, knows beyond this format: the suffix of the family's name, and its type.
_TYPES = {
    "counter": ("_total", "counter"),
    "info": ("_info", "gauge"),
    "stateset": ("", "gauge"),
    "gaugehistogram": ("", "histogram"),
    "unknown": ("", "untyped"),
}


def render(metric: Metric, prefix: str, labels: dict[str, str]) -> Family | None:
    """One metric as text; None where it has no samples.

    Args:
        prefix: goes before every name.
        labels: go with every sample that has no labels of these names.
    """
    lines = []
    for sample in metric.samples:
        if sample.name.removeprefix(metric.name) in _OF_OPEN_METRICS:
            continue
        tags = {**labels, **sample.labels} if labels else sample.labels
        written = ",".join([f'{_name(key)}="{_escaped(value)}"' for key, value in tags.items()])
        at = f" {int(float(sample.timestamp) * 1000)}" if sample.timestamp is not None else ""
        name = _name(prefix + sample.name)
        lines.append(
            f"{name}{{{written}}} {_number(sample.value)}{at}\n" if tags else f"{name} {_number(sample.value)}{at}\n"
        )
    if not lines:
        return None
    suffix, kind = _TYPES.get(metric.type, ("", metric.type))
    name = _name(prefix + metric.name + suffix)
    description = metric.documentation.replace("\\", r"\\").replace("\n", r"\n")
    return Family(name, kind, f"# HELP {name} {description}", "".join(lines))


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


@lru_cache(maxsize=10_000)
def _name(name: str) -> str:
    """A name of a metric or a label; newer ones may have any characters, which older Prometheus servers refuse."""
    return re.sub(r"[^a-zA-Z0-9_:]|^(?=[0-9])", "_", name)


_TO_ESCAPE = re.compile(r'[\\"\n\ud800-\udfff]').search


def _escaped(value: str) -> str:
    if not _TO_ESCAPE(value):
        return value
    value = value.encode("utf-8", "replace").decode()  # halves of characters cannot be written
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))  # a collector may give anything that is a number, NumPy's too
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
