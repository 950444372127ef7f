"""What `headrace top` shows: a row for each deployment, and totals, of a status and what two scrapes say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from headrace.cli.scrape_rates import Deployment, Load


class Sort(StrEnum):
    """What rows are ordered by; all but the name with the highest first."""

    requests = "requests"
    name = "name"
    errors = "errors"
    p50 = "p50"
    p99 = "p99"
    ongoing = "ongoing"
    queued = "queued"
    cpu = "cpu"
    memory = "memory"


@dataclass(frozen=True, slots=True)
class Row:
    """One deployment. `ready`: replicas that serve; `target`: that there should be."""

    application: str
    name: str
    status: str
    ready: int
    target: int
    load: Load

    @property
    def title(self) -> str:
        return f"{self.application} / {self.name}"


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that is shown at once.

    Attributes:
        address: of the REST API.
        seconds: how long the interval was.
        machines: that live; `cpus` and `memory_bytes` are theirs together.
        unanswered: processes that did not answer the scrape, and are in no figure.
    """

    address: str
    version: str
    seconds: float
    rows: Sequence[Row]
    applications: int = 0
    machines: int = 1
    cpus: float = 0.0
    memory_bytes: float = 0.0
    unanswered: int = 0
    totals: Load = field(default_factory=Load)

    @property
    def ready(self) -> int:
        return sum(row.ready for row in self.rows)

    @property
    def target(self) -> int:
        return sum(row.target for row in self.rows)


_HIGHEST_FIRST: Mapping[Sort, Callable[[Load], float]] = {
    Sort.requests: lambda load: load.requests_per_s,
    Sort.errors: lambda load: load.errors_per_s,
    Sort.p50: lambda load: load.latency_ms(0.5) or 0.0,
    Sort.p99: lambda load: load.latency_ms(0.99) or 0.0,
    Sort.ongoing: lambda load: load.ongoing,
    Sort.queued: lambda load: load.queued,
    Sort.cpu: lambda load: load.cpu_percent,
    Sort.memory: lambda load: load.memory_bytes,
}


def page_of(
    address: str,
    status: Mapping[str, Any],
    loads: Mapping[Deployment, Load],
    seconds: float,
    sort: Sort,
    unanswered: int = 0,
) -> Page:
    """
    Args:
        status: an `InstanceStatus`.
        loads: what deployments did in the last `seconds`.
    """
    rows = [
        Row(
            application["name"],
            deployment["name"],
            deployment["status"],
            deployment["replica_states"].get("RUNNING", 0),
            deployment["target_num_replicas"],
            loads.get((application["name"], deployment["name"]), Load()),
        )
        for application in status["applications"]
        for deployment in application["deployments"]
    ]
    machines = [node for node in status.get("nodes", []) if node.get("alive", True)]
    return Page(
        address=address,
        version=status["version"],
        seconds=seconds,
        rows=ordered(rows, sort),
        applications=len(status["applications"]),
        machines=len(machines) or 1,
        cpus=sum(node.get("resources", {}).get("CPU", 0.0) for node in machines),
        memory_bytes=sum(node.get("resources", {}).get("memory", 0.0) for node in machines),
        unanswered=unanswered,
        totals=_total([row.load for row in rows]),
    )


def ordered(rows: Sequence[Row], sort: Sort) -> list[Row]:
    """Rows in the order of a column; those that are equal there by name."""
    by_name = sorted(rows, key=lambda row: (row.application, row.name))
    if sort is Sort.name:
        return by_name
    value = _HIGHEST_FIRST[sort]
    return sorted(by_name, key=lambda row: -value(row.load))


def _total(loads: Sequence[Load]) -> Load:
    names = ("requests_per_s", "errors_per_s", "refused_per_s", "ongoing", "queued", "cpu_percent", "memory_bytes")
    return Load(**{name: sum(getattr(load, name) for load in loads) for name in names})


def for_programs(page: Page, unix: float) -> dict[str, Any]:
    """The page as JSON. Latencies are None where no request ended."""
    return {
        "at": round(unix, 3),
        "seconds": round(page.seconds, 3),
        "machines": page.machines,
        "processes_unanswered": page.unanswered,
        "deployments": [
            {
                "application": row.application,
                "deployment": row.name,
                "status": row.status,
                "replicas": row.ready,
                "target_replicas": row.target,
                "requests_per_s": round(row.load.requests_per_s, 3),
                "errors_per_s": round(row.load.errors_per_s, 3),
                "refused_per_s": round(row.load.refused_per_s, 3),
                "p50_ms": row.load.latency_ms(0.5),
                "p99_ms": row.load.latency_ms(0.99),
                "ongoing": round(row.load.ongoing),
                "queued": round(row.load.queued),
                "cpu_percent": round(row.load.cpu_percent, 1),
                "memory_bytes": round(row.load.memory_bytes),
            }
            for row in page.rows
        ],
    }
