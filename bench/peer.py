"""What the suite must know of a framework to run the benchmark's applications on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.workload import Workload

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Request:
    """One HTTP request, as wrk and the probes send it."""

    method: str = "GET"
    path: str = "/"
    body: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json"} if self.body is not None else {}


def plain_requests(workload: Workload) -> list[Request]:
    """GET, or POST where the workload has a body: what most peers take."""
    method = "GET" if workload.body is None else "POST"
    return [Request(method, path, workload.body) for path in workload.paths]


Command = Callable[[Path, Workload, int], list[str]]


@dataclass(frozen=True)
class Peer:
    """One framework, or one way to run it.

    Attributes:
        name: what `--peers` takes.
        title: what the table and the chart say.
        distribution: the Python distribution whose version stands beside the figures.
        apps: names of the applications that it can serve, of those in `bench.workload`.
        command: command line that serves an application: (python of the environment, workload, port) -> argv.
        environment: folder of its virtual environment; None for the one that runs the suite.
        requirements: what `python -m bench install` puts there.
        variables: environment variables of the server. "{scratch}" stands for a temporary folder of the run.
        requests: the requests that a workload sends, in turn.
        note: what a reader of the figures must know.
        kind: "cluster" for what is only compared where `--peers` says so.
    """

    name: str
    title: str
    distribution: str
    apps: frozenset[str]
    command: Command
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    requests: Callable[[Workload], list[Request]] = plain_requests
    note: str = ""
    kind: str = ""
