"""What mypy says to code that uses Headrace: every line of `samples/` is either fine or carries what is expected of it.

`# E: message` is an error, `# R: type` what `reveal_type` shows.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from mypy import api

SAMPLES = Path(__file__).parent / "samples"
_EXPECTED = re.compile(r"# (?P<kind>[ER]): (?P<text>.*)$")
_REPORTED = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): (?P<level>error|note): (?P<text>.*?)(  \[[a-z-]+\])?$")
_REVEALED = re.compile(r'^Revealed type is "(?P<type>.*)"$')

Findings = Counter[tuple[str, int, str, str]]


@pytest.fixture(scope="session")
def reported(pytestconfig: pytest.Config) -> Findings:
    """All that mypy reports of the samples: file, line, `E` or `R`, text."""
    # Kept between runs: most of the time goes into what is imported.
    cache = pytestconfig.rootpath / ".mypy_cache" / "samples"
    options = ["--config-file", str(SAMPLES / "mypy.ini"), "--cache-dir", str(cache), "--no-error-summary"]
    output, problems, _ = api.run([*options, *map(str, sorted(SAMPLES.glob("*.py")))])
    assert not problems
    found: Findings = Counter()
    for line in output.splitlines():
        report = _REPORTED.match(line)
        assert report, line
        revealed = _REVEALED.match(report["text"])
        if report["level"] == "error":
            found[Path(report["file"]).name, int(report["line"]), "E", report["text"]] += 1
        elif revealed:
            found[Path(report["file"]).name, int(report["line"]), "R", revealed["type"]] += 1
    return found


@pytest.mark.parametrize("sample", sorted(path.name for path in SAMPLES.glob("*.py")))
def test_mypy_says_what_the_sample_expects_and_no_more(sample: str, reported: Findings) -> None:
    expected: Findings = Counter()
    for number, line in enumerate((SAMPLES / sample).read_text().splitlines(), start=1):
        if comment := _EXPECTED.search(line):
            expected[sample, number, comment["kind"], comment["text"]] += 1
    actual = Counter({finding: count for finding, count in reported.items() if finding[0] == sample})
    assert sorted((actual - expected).elements()) == sorted((expected - actual).elements()) == []
