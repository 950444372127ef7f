"""A Ray cluster for all tests of a run: `pytest --engine ray`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CPUS = 100
"""More than this machine has: on a cluster they are reserved, and nothing here is about that."""


def new_cluster() -> Any:
    """Ray's helper that makes clusters in tests, with no node yet.

    It notes in Ray's usual folder where a cluster is, wherever that cluster's files are, and on a machine where Ray has
    never run there is no such folder.
    """
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    return Cluster()


@contextmanager
def cluster(machines: int) -> Iterator[None]:
    """What starts an instance in these tests starts it there.

    Args:
        machines: 1, or more: then the first one runs no replicas, so that all of them are somewhere else.
    """
    # Ray puts Unix sockets of long names below it.
    folder = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
        made = new_cluster()
        options = {"object_store_memory": 80_000_000, "include_dashboard": False}
        try:
            made.add_node(num_cpus=CPUS if machines == 1 else 0, temp_dir=str(folder), **options)
            for _ in range(machines - 1):
                made.add_node(num_cpus=CPUS, **options)
            patch.setenv("HEADRACE_ENGINE", "ray")
            patch.setenv("HEADRACE_RAY_ADDRESS", made.address)
            yield
        finally:
            import ray

            ray.shutdown()
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
