"""The workloads: which application is asked what, over how many connections, and what must come back."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

SSE_EVENTS = [f'{{"token": "word{number}"}}' for number in range(100)]
BATCH_BODY = json.dumps({"x": 21.0})


@dataclass(frozen=True)
class Workload:
    """One row group of the table.

    Attributes:
        name: what `--workloads` takes.
        title: what the table and the chart say.
        app: the application under `bench/apps/` that serves it.
        kind: "load" is measured with wrk; "start", "new-replica", "scale" and "memory" by the harness itself.
        group: "core", or the name of a growth series whose members differ in `size` alone.
        connections: wrk's, unless `--connections` says otherwise.
        size: bytes of an array, number of routes or number of replicas, by app.
        body: JSON sent with POST; None sends a GET where the peer takes one.
        expected: the answer's text.
        goal: requests per second (MB for "memory", seconds for the rest) that Headrace is to reach on the two-core
            reference machine.
    """

    name: str
    title: str
    app: str
    kind: str = "load"
    group: str = "core"
    connections: int = 32
    size: int = 1
    body: str | None = None
    expected: str = "ok"
    goal: float | None = None
    paths: tuple[str, ...] = field(default=("/",))


def _array(name: str, title: str, size: int, connections: int, group: str, goal: float | None = None) -> Workload:
    expected = f"{size} 0 {(size - 1) % 251}"
    return Workload(name, title, "array", group=group, connections=connections, size=size, expected=expected, goal=goal)


CORE = (
    Workload("noop", "no-op, async __call__", "noop", goal=20_000),
    Workload("noop-sync", "no-op, sync __call__", "noop-sync"),
    Workload("chain", "chain of two deployments", "chain", goal=12_000),
    Workload("fanout", "fan-out to 4 calls", "fanout", expected="1 4 9 16", goal=5_000),
    Workload("sse", "SSE stream of 100 chunks", "sse", connections=16, expected="", goal=1_800),
    _array("array-1mb", "1 MB array to a second deployment", 1_000_000, 8, "core", 2_000),
    _array("array-10mb", "10 MB array to a second deployment", 10_000_000, 4, "core", 300),
    Workload("batch", "dynamic batching (32, 5 ms)", "batch", "load", "core", 100, 1, BATCH_BODY, "42.0", 12_000),
    Workload("start", "script start to first answer", "noop", kind="start", goal=0.8),
    Workload("new-replica", "a new replica serves", "new-replica", kind="new-replica", goal=0.1),
    Workload("scale-20", "from 1 replica to 20", "new-replica", kind="scale", size=20),
    Workload("memory", "memory of a no-op application", "noop", kind="memory", goal=150),
)

_PAYLOADS = {"1kb": 10**3, "10kb": 10**4, "100kb": 10**5, "1mb": 10**6, "10mb": 10**7, "100mb": 10**8}

GROWTH = (
    *(
        Workload(
            f"routes-{count}",
            f"{count} deployment{'s'[: count - 1]} with routes",
            "routes",
            group="routes",
            size=count,
            paths=tuple(f"/app{number}" for number in range(count)),
        )
        for count in (1, 10, 100, 1000)
    ),
    *(
        Workload(f"replicas-{count}", f"{count} replica{'s'[: count - 1]}", "replicas", group="replicas", size=count)
        for count in (1, 2, 4, 8, 16, 32, 64)
    ),
    *(
        _array(f"payload-{name}", f"{size:,} bytes to a second deployment", size, 4, "payload")
        for name, size in _PAYLOADS.items()
    ),
)

WORKLOADS = CORE + GROWTH


def select_workloads(patterns: Sequence[str]) -> list[Workload]:
    """The workloads that the patterns name, in the suite's order.

    A pattern is a name, a group ("core", "routes", "replicas", "payload"), "growth", "all", or a glob such as
    "array-*". Raises ValueError where a pattern names nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            workload.name
            for workload in WORKLOADS
            if pattern in ("all", workload.group)
            or (pattern == "growth" and workload.group != "core")
            or fnmatch.fnmatchcase(workload.name, pattern)
        }
        if not found:
            known = ", ".join(workload.name for workload in WORKLOADS)
            raise ValueError(f"no workload is called {pattern!r}; there are: all, core, growth, {known}")
        chosen |= found
    return [workload for workload in WORKLOADS if workload.name in chosen]


def wrong_answer(workload: Workload, body: bytes) -> str | None:
    """What is wrong with an answer's body, in words; None if it is right.

    Quotes around the text are let pass: some peers answer a string as JSON, others as plain text.
    """
    text = body.decode(errors="replace")
    if workload.app == "sse":
        events = [match.strip() for match in re.findall(r"^data:(.*)$", text, flags=re.MULTILINE)]
        if events != SSE_EVENTS:
            return f"expected {len(SSE_EVENTS)} events in order, got {len(events)}: {text[:120]!r}"
        return None
    plain = text.strip()
    if plain.startswith("[") and plain.endswith("]"):  # a batch of one, where the peer's clients send batches
        plain = plain[1:-1].strip()
    if plain.strip('"') != workload.expected:
        return f"expected {workload.expected!r}, got {text[:120]!r}"
    return None
