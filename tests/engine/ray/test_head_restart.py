"""Ray's head dies and comes back, where Ray keeps its state in a Redis outside of the cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.ray.conftest import answers, until
from tests.engine.ray.started_cluster import StartedCluster, asked
from tests.engine.ray.test_faults import asking
from tests.free_port import free_port

from headrace.engine.session import Session

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
pytest.importorskip("ray")

APPLICATION = "tests.engine.ray.applications:on_workers"


class FaultTolerantCluster(StartedCluster):
    """A head that keeps its state in Redis, and one worker."""

    def __init__(self) -> None:
        super().__init__()
        self._redis = free_port()

    def begin(self) -> None:
        self.start_redis()
        self.start_own_head()
        self.start_worker()

    def start_redis(self) -> None:
        options = ("--port", str(self._redis), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder))
        self._start("redis", "redis-server", *options)
        ping = ("redis-cli", "-p", str(self._redis), "ping")
        until(lambda: subprocess.run(ping, capture_output=True, check=False).stdout.strip() == b"PONG", "Redis")

    def start_own_head(self) -> None:
        redis = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis}", "RAY_external_storage_namespace": "tests"}
        self.start_head("--include-dashboard=false", **redis)


@pytest.fixture
def cluster() -> Iterator[FaultTolerantCluster]:
    with FaultTolerantCluster() as made:
        yield made


def nodes(cluster: FaultTolerantCluster) -> tuple[Session, Session]:
    """The head and the worker, once both serve and the controller knows of them."""
    sessions = {session.node: session for session in cluster.machines()}
    told = asked(next(iter(sessions.values())), "/api/headrace/nodes")["nodes"]
    alive = {node["head"]: sessions[node["node_id"]] for node in told if node["alive"]}
    return alive[True], alive[False]


def deployment(session: Session) -> dict[str, Any]:
    """What the API tells of the application's deployment."""
    applications = asked(session, "/api/serve/applications/")["applications"]
    told: dict[str, Any] = applications["default"]["deployments"]["Where"]
    return told


def test_requests_go_on_without_the_head_and_all_is_under_control_when_it_is_back(
    cluster: FaultTolerantCluster,
) -> None:
    cluster.headrace("start", "--http-port", "0", "--rest-port", "0")
    cluster.headrace("run", APPLICATION, "--non-blocking")
    head, worker = until(lambda: nodes(cluster), "two machines")
    until(lambda: deployment(worker)["status"] == "HEALTHY", "two replicas")
    replicas = {each["replica_id"]: each["pid"] for each in deployment(worker)["replicas"]}
    assert len(replicas) == 2
    with asking(worker) as said:
        until(lambda: len(said) > 20, "requests")
        cluster.kill_head()
        count = len(said)
        until(lambda: len(said) > count + 100, "requests without a head")
        cluster.start_own_head()
        new_head, same_worker = until(lambda: nodes(cluster), "another head", 150.0)
        until(lambda: answers(new_head), "requests at the new head", 60.0)
    assert None not in said
    assert (same_worker.node, same_worker.http) == (worker.node, worker.http)
    assert new_head.node != head.node
    assert {each["replica_id"]: each["pid"] for each in deployment(worker)["replicas"]} == replicas
    # It is the same instance, and it can be changed.
    cluster.headrace("run", "tests.engine.ray.applications:three_on_workers", "--non-blocking")
    until(lambda: len(deployment(new_head)["replicas"]) == 3, "a third replica", 60.0)
    assert replicas.keys() <= {each["replica_id"] for each in deployment(new_head)["replicas"]}
    cluster.headrace("shutdown", "--yes")
    until(lambda: not cluster.machines(), "the end")
