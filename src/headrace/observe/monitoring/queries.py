"""The pieces that dashboards' and alerts' PromQL is put together from.

Names are written as in `headrace.observe.catalogue`; `with_prefix` puts the instance's prefix before them.
"""

from __future__ import annotations

import re

APPLICATION = 'application=~"$application"'
DEPLOYMENT = f'{APPLICATION}, deployment=~"$deployment"'
REPLICA = f'{DEPLOYMENT}, replica=~"$replica"'
MODEL = f'{REPLICA}, model=~"$model"'
VLLM = f'{REPLICA}, model_name=~"$model"'

BY_DEPLOYMENT = "application, deployment"

WINDOW = "$__rate_interval"
"""Grafana's word for the shortest window that holds enough scrapes at the present zoom."""


def with_prefix(expression: str, prefix: str) -> str:
    """A query with the instance's prefix before every metric of Headrace's. Those of libraries have none."""
    return re.sub(r"(?<![\w:])serve_", f"{prefix}serve_", expression)


def only(name: str, where: str) -> str:
    """The series of that name with these labels; all where nothing is said."""
    return f"{name}{{{where}}}" if where else name


def rate(counter: str, where: str = "", window: str = WINDOW) -> str:
    return f"rate({only(counter, where)}[{window}])"


def increase(counter: str, where: str = "", window: str = WINDOW) -> str:
    return f"increase({only(counter, where)}[{window}])"


def total(by: str, expression: str) -> str:
    """The sum over everything but the labels `by`; over everything where that is empty."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def quantile(share: float, histogram: str, where: str, by: str = "", window: str = WINDOW) -> str:
    """Below what value that share of the observations in the window was."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share:g}, {total(labels, rate(f'{histogram}_bucket', where, window))})"


def mean(histogram: str, where: str, by: str, window: str = WINDOW) -> str:
    """The average of the observations in the window."""
    of_sum, of_count = (total(by, rate(f"{histogram}_{part}", where, window)) for part in ("sum", "count"))
    return f"{of_sum} / {of_count}"


def share(part: str, whole: str) -> str:
    """Of sums with the same labels: 0, and not nothing, where there is a whole and no part of it."""
    return f"({part} or 0 * {whole}) / {whole}"
