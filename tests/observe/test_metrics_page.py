"""The guide lists every metric as it is."""

from __future__ import annotations

import re
from pathlib import Path

import headrace
from headrace.observe.catalogue import CATALOGUE

OF_MODELS = "serve_llm_"
PACKAGE = Path(headrace.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(serve_\w+)`( †)? \| (\w+) \| ([\w, ]*?) ?\| (.*) \|$", re.MULTILINE)


def test_the_page_lists_every_metric_with_its_type_and_labels() -> None:
    listed = {name: (kind, labels) for name, _, kind, labels, _ in ROW.findall(PAGE.read_text())}
    listed = {name: told for name, told in listed.items() if not name.startswith(OF_MODELS)}
    assert listed == {name: (known.type, ", ".join(known.labels)) for name, known in CATALOGUE.items()}


def test_the_page_lists_every_metric_of_language_models() -> None:
    listed = {name for name, *_ in ROW.findall(PAGE.read_text()) if name.startswith(OF_MODELS)}
    sources = (PACKAGE / "llm").rglob("*.py")
    assert listed == {name for path in sources for name in re.findall(r'"(serve_llm_\w+)"', path.read_text())}


def test_the_page_marks_those_with_a_second_name() -> None:
    marked = {name for name, mark, *_ in ROW.findall(PAGE.read_text()) if mark}
    assert marked == {name for name, known in CATALOGUE.items() if known.also == name}
