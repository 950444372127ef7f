"""What runs on the clusters of these tests."""

from __future__ import annotations

import os
from typing import Any

import headrace as serve


def node_here() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Where:
    """Tells the machine and the process that answer."""

    async def __call__(self, request: Any = None) -> str:
        return f"{node_here()} {os.getpid()}"

    async def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    async def end(self) -> None:
        os._exit(3)


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Front:
    """Asks the deployment behind it."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind

    async def __call__(self, request: Any = None) -> str:
        return f"{node_here()} asked {await self._behind.remote()}"


where = Where.bind()

# For clusters whose workers have the resource "worker".
on_workers = Where.options(num_replicas=2, ray_actor_options={"num_cpus": 0.1, "resources": {"worker": 1}}).bind()
three_on_workers = Where.options(num_replicas=3, ray_actor_options={"num_cpus": 0.1, "resources": {"worker": 1}}).bind()
