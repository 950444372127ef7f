"""vLLM's workers as actors of Ray: where a replica has a placement group, its workers belong into the bundles."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import Any

from headrace.context import GangContext


def use_placement_group(args: Namespace, gang: GangContext | None) -> None:
    """Have vLLM start its workers in the placement group that this process is in, if it is in one.

    vLLM takes the group from Ray itself. Whether its workers are started by Ray is left to what `args` says, if it says
    anything.

    Args:
        args: of `vllm serve`.
        gang: of the replica, all of which share one group.
    """
    ray = _ray_with_a_group()
    if ray is None or args.distributed_executor_backend not in (None, "ray"):
        return
    workers = args.tensor_parallel_size * args.pipeline_parallel_size
    if workers > 1:
        args.distributed_executor_backend = "ray"
    if args.distributed_executor_backend != "ray":
        return
    # vLLM's engine core is a process of its own, and would look for any cluster of this machine.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    if gang is not None:
        # Those of a gang follow each other. A variable, because vLLM takes it from nowhere else.
        mine = range(gang.rank * workers, (gang.rank + 1) * workers)
        os.environ.setdefault("VLLM_RAY_BUNDLE_INDICES", ",".join(map(str, mine)))


def _ray_with_a_group() -> Any | None:
    """Ray, if it has put this process into a placement group."""
    # A process that Ray has started has imported it. No other has a reason to.
    ray: Any = sys.modules.get("ray")
    in_group = ray is not None and ray.is_initialized() and ray.util.get_current_placement_group() is not None
    return ray if in_group else None
