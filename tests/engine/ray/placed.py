"""What tells where it runs, and starts actors of its own."""

from __future__ import annotations

import os
from typing import Any

import headrace as serve
from headrace.context import GangContext


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Placed:
    """Tells of its placement group, and of the actors that it starts: `workers` of one GPU each."""

    def __init__(self, workers: int = 0) -> None:
        import ray

        self.workers: list[Any] = []
        if workers:

            @ray.remote(num_cpus=0, num_gpus=1)
            class Worker:
                def where(self) -> tuple[str, str | None]:
                    group = ray.util.get_current_placement_group()
                    return ray.get_runtime_context().get_node_id(), group.id.hex() if group is not None else None

            self.workers = [Worker.remote() for _ in range(workers)]

    def group(self) -> str | None:
        """Id of the placement group that this replica is in."""
        import ray

        group = ray.util.get_current_placement_group()
        return group.id.hex() if group is not None else None

    def of_workers(self) -> list[tuple[str, str | None]]:
        """The machine and the placement group of each worker."""
        import ray

        return list(ray.get([worker.where.remote() for worker in self.workers], timeout=60))

    def gpus(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    def who(self) -> tuple[str, str, str | None, GangContext | None]:
        """This replica, its machine, its placement group and its gang."""
        import ray

        context = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        return context.replica_id.unique_id, node, self.group(), context.gang_context
