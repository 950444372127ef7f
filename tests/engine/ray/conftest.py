"""Ray clusters of several machines that are in truth this one, and instances on them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.ray_cluster import new_cluster

import headrace as serve
from headrace import client as driver

SECONDS = 60.0
"""Within which whatever is waited for happens, also on a busy machine."""


def until(condition: Callable[[], Any], what: str = "", seconds: float = SECONDS) -> Any:
    """What `condition` returns, as soon as that is true; what it raises meanwhile counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            last = condition()
            if last:
                return last
        except (OSError, psutil.Error, LookupError, AssertionError) as error:
            last = error
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition.__name__}; last: {last!r}"
        time.sleep(0.05)


class Machines:
    """A cluster.

    Attributes:
        cluster: Ray's own helper for tests.
        head: its first machine, which this process is on.
        sessions: where session folders are.
    """

    def __init__(self, cluster: Any, head: Any, sessions: Path) -> None:
        self.cluster = cluster
        self.head = head
        self.sessions = sessions
        self._added: list[Any] = []
        self._workers: list[Any] = []

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **options: Any) -> Any:
        """Another machine joins."""
        node = self.cluster.add_node(
            **{"num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False, **options}
        )
        self._added.append(node)
        return node

    def remove(self, node: Any) -> None:
        """A machine dies without a word."""
        self._added.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def remove_all_added(self) -> None:
        for node in list(self._added):
            self.remove(node)

    def add_workers(self) -> None:
        """Two more machines, which stay for later tests, each with four of the resource "worker"."""
        while len(self._workers) < 2:
            self._workers.append(self.add(resources={"worker": 4}))
            self._added.pop()
        until(lambda: {self.head.node_id, *(w.node_id for w in self._workers)} <= self.records().keys())

    def leave_only_the_head(self) -> None:
        """For tests that count machines, or want each to be one of its own."""
        self._added += self._workers
        self._workers.clear()
        self.remove_all_added()
        until(
            lambda: (
                [node["NodeID"] for node in self.cluster.list_all_nodes_ray() if node["Alive"]] == [self.head.node_id]
            )
        )

    def here(self) -> Any:
        """What the agent of the head tells of it."""
        return self.records()[self.head.node_id]

    def records(self) -> dict[str, Any]:
        """What the agents tell of their machines, by node."""
        from headrace.engine.ray import kv
        from headrace.engine.ray.records import NODE, NodeRecord

        alive = {node["NodeID"] for node in self.cluster.list_all_nodes_ray() if node["Alive"]}
        found = (kv.get_record(key, NodeRecord) for key in kv.keys(NODE))
        return {record.node: record for record in found if record is not None and record.node in alive}

    def processes(self) -> dict[str, Any]:
        """The records of the instance's processes, by name."""
        from headrace.engine.ray import kv
        from headrace.engine.ray.records import PROCESS, ProcessRecord

        found = (kv.get_record(key, ProcessRecord) for key in kv.keys(PROCESS))
        return {record.info.name: record for record in found if record is not None}

    def actor_pid(self, name: str) -> int:
        """Of a living actor of the instance."""
        import ray

        for actor in ray._private.state.actors().values():
            if actor["Name"] == name and actor["State"] == "ALIVE":
                return int(actor["Pid"])
        raise LookupError(f"no actor {name} lives")

    def nothing_is_left(self) -> bool:
        """Whether no actor, group, record, folder or process of an instance is there."""
        import ray

        from headrace.engine.ray import kv

        actors = [each for each in ray.util.list_named_actors(True) if each["namespace"] == kv.NAMESPACE]
        groups = [told for told in ray.util.placement_group_table().values() if told["state"] != "REMOVED"]
        folders = [path.name for path in self.sessions.glob("*/secret")]
        buffers = [path.name for path in Path("/dev/shm").glob("headrace-*") if (path / "agent.lock").exists()]
        ours = [p.info["name"] for p in psutil.process_iter(["name", "environ"]) if self._is_of_ours(p)]
        left = [actors, groups, kv.keys(""), folders, [b for b in buffers if b[9:] in folders], ours]
        assert not any(left), left
        return True

    def _is_of_ours(self, process: psutil.Process) -> bool:
        name = process.info["name"] or ""
        of_here = (process.info["environ"] or {}).get("HEADRACE_SESSIONS") == str(self.sessions)
        return name.startswith("headrace:") and of_here and process.status() != psutil.STATUS_ZOMBIE


# Not of the session: where this process is connected to a cluster, instances of later tests would run there.
@pytest.fixture(scope="package")
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """A cluster of one machine with four CPUs, which tests add others to."""
    pytest.importorskip("ray")
    # Unix sockets have short paths.
    folder = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADRACE_SESSIONS", str(folder / "s"))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        # A machine that has died is told of within seconds.
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        import ray

        cluster = new_cluster()
        cluster.list_all_nodes_ray = ray.nodes  # type: ignore[attr-defined]
        head = cluster.add_node(
            num_cpus=4,
            object_store_memory=80_000_000,
            include_dashboard=False,
            temp_dir=str(folder / "r"),
        )
        ray.init(address=cluster.address, namespace="test", logging_level="ERROR", log_to_driver=False)
        try:
            yield Machines(cluster, head, folder / "s")
        finally:
            ray.shutdown()
            cluster.shutdown()
            if request.session.testsfailed == 0:  # Ray's logs say why
                shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def instance(machines: Machines) -> Iterator[driver.Client]:
    """An instance on the cluster; nothing of it is left afterwards."""
    serve.start(engine="ray", http_options={"port": 0}, rest_options={"port": 0})
    try:
        yield driver.find()
    finally:
        serve.shutdown()
        until(machines.nothing_is_left, "everything of the instance is gone")
        machines.remove_all_added()


@pytest.fixture
def three(machines: Machines, instance: driver.Client) -> Machines:
    """The cluster with two more machines, each with four of the resource "worker", all with an agent."""
    machines.add_workers()
    return machines


def get(record: Any, path: str = "/", timeout_s: float = 30.0) -> str:
    """What an application answers at a machine's proxy."""
    host, port = record.http
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=timeout_s) as answer:
        return str(answer.read().decode())


def answers(record: Any, path: str = "/") -> str | None:
    """The same, None where it does not answer (yet)."""
    try:
        return get(record, path, 5.0)
    except (OSError, urllib.error.URLError):
        return None


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
