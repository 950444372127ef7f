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
    if args.distributed_executor_backend not in (None, "ray") or not _in_placement_group():
        return
    workers = args.tensor_parallel_size * args.pipeline_parallel_size
    if workers > 1:
        args.distributed_executor_backend = "ray"
    if gang is not None and args.distributed_executor_backend == "ray":
        # Those of a gang follow each other. A variable, because vLLM takes it from nowhere else.
        mine = range(gang.rank * workers, (gang.rank + 1) * workers)
        os.environ.setdefault("VLLM_RAY_BUNDLE_INDICES", ",".join(map(str, mine)))


def _in_placement_group() -> bool:
    # A process that Ray has started has imported it. No other has a reason to.
    ray: Any = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.util.get_current_placement_group() is not None
