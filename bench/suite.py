"""The whole suite: every workload on every peer, results saved as they come."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from bench import environments
from bench.measure import Settings, measure
from bench.peer import Peer
from bench.result import Result, Run, save
from bench.workload import Workload


def machine() -> dict[str, object]:
    """What the figures were measured on. No host name: results may be published."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def run_suite(
    peers: Sequence[Peer],
    workloads: Sequence[Workload],
    settings: Settings,
    environments_folder: Path,
    path: Path,
    tell: Callable[[Workload, Peer, Result | None], None],
) -> Run:
    """Measure all, workload by workload, and save to `path` after each result.

    Args:
        tell: called before each measurement with None, and after it with its result.
    """
    pythons = {peer.name: environments.python_of(environments_folder, peer.environment) for peer in peers}
    versions = {
        peer.name: version
        for peer in peers
        if (version := environments.version_of(pythons[peer.name], peer.distribution)) is not None
    }
    results: list[Result] = []
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = Run(started, machine(), asdict(settings), versions, results)
    for workload in workloads:
        for peer in peers:
            if peer.name not in versions:
                result = Result(workload.name, peer.name, "not installed", f"python -m bench install {peer.name}")
            elif workload.app not in peer.apps:
                result = Result(workload.name, peer.name, "unsupported", f"{peer.title} has no such thing")
            else:
                tell(workload, peer, None)
                result = measure(peer, pythons[peer.name], workload, settings)
            results.append(result)
            tell(workload, peer, result)
            save(run, path)
    return run
