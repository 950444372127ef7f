"""The peers' virtual environments: where they are, what is in them, how they are made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.peer import Peer

CHART_ENVIRONMENT = "chart"
CHART_REQUIREMENTS = ("matplotlib",)


def default_folder() -> Path:
    """`$HEADRACE_BENCH_ENVS`, or a folder in the user's cache."""
    named = os.environ.get("HEADRACE_BENCH_ENVS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace-bench"


def python_of(folder: Path, environment: str | None) -> Path:
    """The interpreter of an environment; of the suite's own for None."""
    return Path(sys.executable) if environment is None else folder / environment / "bin" / "python"


def version_of(python: Path, distribution: str) -> str | None:
    """The installed version of a distribution; None if the environment or the distribution is missing."""
    if not python.exists():
        return None
    code = "import importlib.metadata as m, json, sys; print(json.dumps(m.version(sys.argv[1])))"
    done = subprocess.run(
        [str(python), "-P", "-c", code, distribution], capture_output=True, text=True, timeout=60, check=False
    )
    return str(json.loads(done.stdout)) if done.returncode == 0 else None


def install(folder: Path, environment: str, requirements: Sequence[str]) -> None:
    """Create the environment if need be and install into it, with uv where it is there.

    Raises subprocess.CalledProcessError.
    """
    python = python_of(folder, environment)
    uv = shutil.which("uv")
    if not python.exists():
        python.parent.parent.mkdir(parents=True, exist_ok=True)
        target = str(python.parent.parent)
        create = [uv, "venv", "-q", "-p", sys.executable, target] if uv else [sys.executable, "-m", "venv", target]
        subprocess.run(create, check=True)
    fill = [uv, "pip", "install", "-q", "-p", str(python)] if uv else [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*fill, *requirements], check=True)


def requirements_of(peers: Sequence[Peer]) -> dict[str, tuple[str, ...]]:
    """What to install where, for these peers: environment to requirements."""
    return {peer.environment: peer.requirements for peer in peers if peer.environment is not None}
