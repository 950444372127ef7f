"""Machines that are to go, as Ray tells of them before a pod ends: nothing is lost with them."""

from __future__ import annotations

import threading
import time

import pytest
from tests.engine.ray.applications import Where
from tests.engine.ray.conftest import Machines, get, until

import headrace as serve
from headrace import client as driver

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

ON_EITHER = {"num_cpus": 0.1, "resources": {"either": 1}}


def drain(node: str, seconds: float) -> None:
    """What `ray start --block` does when it is told to end, and an autoscaler before it takes a machine away."""
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    gcs = ray._private.worker.global_worker.gcs_client
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, why = gcs.drain_node(node, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "it is to go", deadline_ms)
    assert accepted, why


def test_replicas_move_away_and_no_request_is_lost(machines: Machines, instance: driver.Client) -> None:
    nodes = [machines.add(resources={"either": 4}).node_id for _ in range(2)]
    until(lambda: set(nodes) <= machines.records().keys())
    deployment = Where.options(num_replicas=2, ray_actor_options=ON_EITHER, graceful_shutdown_wait_loop_s=0.1)
    serve.run(deployment.bind())
    head = machines.here()

    def places() -> set[str]:
        return {record.info.node for record in machines.processes().values() if record.info.role == "replica"}

    goes = places().pop()
    (stays,) = set(nodes) - {goes}
    failures: list[BaseException] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                get(head)
            except Exception as error:
                failures.append(error)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        drain(goes, 120.0)
        until(lambda: places() == {stays}, "all replicas are on the other machine", seconds=120)
        # Nothing of ours holds the machine any more, so that Ray ends it long before the deadline.
        until(lambda: goes not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}, "its end", seconds=120)
        assert get(head)
    finally:
        end.set()
        for caller in callers:
            caller.join()
    assert failures == []
