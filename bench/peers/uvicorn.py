"""Bare web frameworks on uvicorn, one process: the floor that HTTP in Python sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.peer import APPS, Peer
from bench.workload import Workload

_APPS = frozenset({"noop", "noop-sync", "sse"})
_REQUIREMENTS = ("uvicorn[standard]", "fastapi", "starlette")


def _command(script: str) -> Callable[[Path, Workload, int], list[str]]:
    return lambda python, workload, port: [str(python), str(APPS / script), workload.app, str(port)]


FASTAPI = Peer(
    name="fastapi",
    title="FastAPI on uvicorn",
    distribution="fastapi",
    apps=_APPS,
    command=_command("fastapi_api.py"),
    environment="uvicorn",
    requirements=_REQUIREMENTS,
    note="one process, no deployments",
)

STARLETTE = Peer(
    name="starlette",
    title="Starlette on uvicorn",
    distribution="starlette",
    apps=_APPS,
    command=_command("starlette_api.py"),
    environment="uvicorn",
    requirements=_REQUIREMENTS,
    note="one process, no deployments",
)
