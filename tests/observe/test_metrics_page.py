"""The guide lists every metric as it is."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.observe.catalogue import CATALOGUE

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(serve_\w+)`( †)? \| (\w+) \| ([\w, ]*?) ?\| (.*) \|$", re.MULTILINE)


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    listed = {name: (kind, labels) for name, _, kind, labels, _ in ROW.findall(PAGE.read_text())}
    assert listed == {name: (known.type, ", ".join(known.labels)) for name, known in CATALOGUE.items()}


def test_the_page_marks_those_with_a_second_name() -> None:
    marked = {name for name, mark, *_ in ROW.findall(PAGE.read_text()) if mark}
    assert marked == {name for name, known in CATALOGUE.items() if known.also == name}
