"""The figures: what one workload gave on one peer, and the file of a whole run."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Repeat:
    """One measurement. Where a figure does not apply to the workload it is None.

    Attributes:
        requests_per_s: answered requests per second.
        p50_ms, p99_ms: latency as the load generator saw it, milliseconds.
        cpu_ms: CPU time of all server processes per answered request, milliseconds.
        memory_mb: sum of the PSS of all server processes, 10^6 bytes.
        ready_s: seconds until ready: of the whole server, or (new-replica) of the new replica.
        errors: answers other than 2xx and 3xx, and failed or timed-out connections.
        other_cpu: cores that processes other than the server and the load generator kept busy meanwhile.
    """

    requests_per_s: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_ms: float | None = None
    memory_mb: float | None = None
    ready_s: float | None = None
    errors: int = 0
    other_cpu: float | None = None


FIGURES = ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms", "memory_mb", "ready_s")


@dataclass(frozen=True)
class Result:
    """One workload on one peer. `status`: "ok", "failed", "unsupported" or "not installed", with the reason."""

    workload: str
    peer: str
    status: str
    reason: str = ""
    connections: int | None = None
    repeats: list[Repeat] = field(default_factory=list)

    def median(self, figure: str) -> float | None:
        """The median of a figure over the repeats; None if no repeat has it."""
        values = self.values(figure)
        return statistics.median(values) if values else None

    def values(self, figure: str) -> list[float]:
        return [value for repeat in self.repeats if (value := getattr(repeat, figure)) is not None]

    @property
    def errors(self) -> int:
        return sum(repeat.errors for repeat in self.repeats)

    @property
    def disturbed(self) -> bool:
        """Whether other processes kept more than a tenth of a core busy during a repeat."""
        return any(value > 0.1 for value in self.values("other_cpu"))


@dataclass(frozen=True)
class Run:
    """All results of one run of the suite, with what they were measured on."""

    started: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    results: list[Result]

    def find(self, workload: str, peer: str) -> Result | None:
        return next((one for one in self.results if (one.workload, one.peer) == (workload, peer)), None)


def save(run: Run, path: Path) -> None:
    """Write a run as JSON. The file is whole at any time: it is written beside and moved into place."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(run)}, indent=1) + "\n")
    beside.replace(path)


def load(path: Path) -> Run:
    """Read what `save` wrote. Raises ValueError for a file of another format."""
    told = json.loads(path.read_text())
    if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a result of this suite (format {FORMAT})")
    results = [Result(**{**one, "repeats": _repeats(one["repeats"])}) for one in told.pop("results")]
    return Run(**told, results=results)


def _repeats(told: Sequence[dict[str, Any]]) -> list[Repeat]:
    return [Repeat(**one) for one in told]
