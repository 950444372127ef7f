"""What a scrape of a running application tells."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


def series(api: str, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(httpx.get(f"{api}/-/metrics").text)
    return [
        (sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def total(api: str, name: str, **labels: str) -> float:
    return sum(value for _, value in series(api, name, **labels))
