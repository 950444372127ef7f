"""What the serving layer costs per streamed token, apart from any model.

    python -m bench.llm_layer [--seconds 5]

The simulated engine answers; wrk asks over 32 connections for streamed chat completions. Three questions:

1. With an engine that is never waited for: tokens per second and CPU per token, beside the floor (Starlette on uvicorn
   that writes the same events, one by one).
2. With tokens that come at a model's pace, one per stream every 10 ms: CPU per token, when nothing can be sent together
   but what comes at the same moment.
3. Two replicas against one, where the engine is the limit.

CPU is that of all processes of the server, the simulated engine's own included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import processes, wrk
from bench.peer import APPS, Request
from bench.server import free_port, start_process, wait_for_status

PATH = "/v1/chat/completions"
CONNECTIONS = 32


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        title: of the row.
        how: "uvicorn", or the way in which Headrace serves: "direct" (one deployment) or "ingress" (two).
        settings: of the simulated engine, and `replicas`.
        tokens: per answer.
        connections: of wrk.
    """

    title: str
    how: str
    settings: dict[str, float]
    tokens: int = 256
    connections: int = CONNECTIONS


_PACED = {"time_per_output_token_s": 0.01, "max_num_seqs": 256}
_LIMITED = {"time_per_output_token_s": 0.01, "max_num_seqs": 8}

CASES = (
    Case("floor: Starlette on uvicorn", "uvicorn", {}),
    Case("no delay, one deployment", "direct", {}),
    Case("no delay, behind an ingress", "ingress", {}),
    Case("10 ms per token, 32 streams, uvicorn alone", "uvicorn", _PACED, tokens=64),
    Case("10 ms per token, 32 streams, one deployment", "direct", _PACED, tokens=64),
    Case("10 ms per token, 32 streams, behind an ingress", "ingress", _PACED, tokens=64),
    Case("10 ms per token, 256 streams, uvicorn alone", "uvicorn", _PACED, tokens=64, connections=256),
    Case("10 ms per token, 256 streams, behind an ingress", "ingress", _PACED, tokens=64, connections=256),
    Case("8 places, 1 replica", "ingress", _LIMITED, tokens=32, connections=64),
    Case("8 places, 2 replicas", "ingress", {**_LIMITED, "replicas": 2}, tokens=32, connections=64),
)


@dataclass(frozen=True)
class Figures:
    """Of one case."""

    tokens_per_s: float
    cpu_us_per_token: float
    errors: int


@contextmanager
def serving(case: Case) -> Iterator[int]:
    """Serve the case; gives the port."""
    scratch = Path(tempfile.mkdtemp(prefix="hb-"))
    port = free_port()
    command = [sys.executable, str(APPS / "llm_api.py"), case.how, str(port), json.dumps(case.settings)]
    leader = start_process(command, {"HEADRACE_SESSIONS": f"{scratch}/s"}, scratch)
    try:
        wait_for_status(leader, port, _request(4), 60.0)
        yield port
    finally:
        processes.end_all(leader)
        shutil.rmtree(scratch, ignore_errors=True)


def _request(tokens: int) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "stream": True}
    return Request("POST", PATH, json.dumps(body))


def measure(case: Case, seconds: float) -> Figures:
    """Run one case."""
    with serving(case) as port:
        requests = [_request(case.tokens)]
        wrk.run(port, requests, case.connections, 1.0)
        used = processes.cpu_seconds()
        load = wrk.run(port, requests, case.connections, seconds)
        used = processes.cpu_seconds() - used
    # wrk counts whole answers only; those that are cut off by the end of the run were streamed too.
    tokens = load.answered * case.tokens
    return Figures(tokens / load.duration_s, 1e6 * used / max(1, tokens), load.errors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (%(default)s)")
    parser.add_argument("--only", default="", help="cases whose title has this in it")
    arguments = parser.parse_args()
    processes.adopt_orphans()
    console = Console(width=120, highlight=False)
    table = Table("", "tokens/s", "CPU per token", "errors")
    floor: float | None = None
    one_replica: float | None = None
    failed = False
    for case in CASES:
        if arguments.only not in case.title:
            continue
        figures = measure(case, arguments.seconds)
        failed |= figures.errors > 0
        beside = ""
        if case.title.startswith("floor"):
            floor = figures.tokens_per_s
        elif case.title.startswith("no delay") and floor is not None:
            beside = f" ({figures.tokens_per_s / floor:.2f} of the floor)"
        elif case.title.endswith("1 replica"):
            one_replica = figures.tokens_per_s
        elif case.title.endswith("2 replicas") and one_replica is not None:
            beside = f" ({figures.tokens_per_s / one_replica:.2f} times)"
        row = (f"{figures.tokens_per_s:,.0f}{beside}", f"{figures.cpu_us_per_token:.2f} µs", str(figures.errors or ""))
        console.print(case.title, *row, sep="  ")
        table.add_row(case.title, *row)
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
