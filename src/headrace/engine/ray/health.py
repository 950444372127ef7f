"""Whether the cluster below works. It is asked each time: what is remembered of it tells a probe nothing."""

from __future__ import annotations

import ray
from ray._raylet import NodeID

ANSWERS_WITHIN_S = 1.0

_PARTS = ("gcs", "raylet")


def problem_of(part: str, node: str) -> str | None:
    """Ask a part of Ray whether it works.

    Args:
        part: "gcs": where the cluster keeps its state. "raylet": what runs processes on `node`.
        node: Ray's id of it.

    Returns:
        What is wrong; None for nothing. A raylet is known to the GCS alone: while that one does not answer, nothing is
        said against the raylet, which ends by itself should it stay so.
    """
    assert part in _PARTS, part
    asked = [] if part == "gcs" else [NodeID.from_hex(node)]
    gcs = ray._private.worker.global_worker.gcs_client
    try:
        alive = gcs.check_alive(asked, ANSWERS_WITHIN_S)
    except ray.exceptions.RpcError as error:
        return f"the GCS does not answer: {error}" if part == "gcs" else None
    return None if all(alive) else f"the raylet of node {node} does not answer"
