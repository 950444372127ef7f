"""Ray's head dies and comes back, where Ray keeps its state in a Redis outside of the cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.engine.ray.conftest import answers, until
from tests.engine.ray.test_faults import asking
from tests.free_port import free_port

from headrace.engine.session import Session
from headrace.exceptions import NotRunningError

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]
pytest.importorskip("ray")

RAY = Path(sys.executable).with_name("ray")
APPLICATION = "tests.engine.ray.applications:on_workers"


class FaultTolerantCluster:
    """A head that keeps its state in Redis, and one worker: `ray start` twice, as on two machines.

    Args:
        folder: with a short path: sockets are in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sessions = folder / "s"
        self._gcs, self._redis_port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._gcs}"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_"))}
        return {
            **kept,
            "HEADRACE_SESSIONS": str(self.sessions),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }

    def _start(self, name: str, *command: str, **more: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env={**self.environment(), **more},
                cwd=Path(__file__).parents[3],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_redis(self) -> None:
        options = ("--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder))
        self._start("redis", "redis-server", *options)
        ping = ("redis-cli", "-p", str(self._redis_port), "ping")
        until(lambda: subprocess.run(ping, capture_output=True, check=False).stdout.strip() == b"PONG", "Redis")

    def start_head(self) -> None:
        # Not there on a new machine; here it has Ray find the worker's and take it for the head.
        (self.folder / "r" / "ray_current_cluster").unlink(missing_ok=True)
        self._ray(
            "head",
            *("--head", f"--port={self._gcs}", "--num-cpus=2", "--include-dashboard=false"),
            f"--temp-dir={self.folder / 'r'}",
            RAY_REDIS_ADDRESS=f"127.0.0.1:{self._redis_port}",
            RAY_external_storage_namespace="tests",
        )

    def start_worker(self) -> None:
        self._ray("worker", f"--address={self.address}", "--num-cpus=4", '--resources={"worker": 4}')

    def _ray(self, name: str, *options: str, **more: str) -> None:
        shared = ("--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--block")
        self._start(name, str(RAY), "start", *options, *shared, **more)

    def kill_head(self) -> None:
        """At once and without a word, as a machine dies: Ray's processes, and all that they have started."""
        head = psutil.Process(self._processes["head"].pid)
        for process in [head, *head.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes["head"].wait()

    def headrace(self, *arguments: str) -> str:
        """Run a command on the cluster."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *arguments],
            env={**self.environment(), "HEADRACE_ENGINE": "ray", "HEADRACE_RAY_ADDRESS": self.address},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def machines(self) -> list[Session]:
        """The sessions of the machines whose root lives."""
        found = []
        for file in self.sessions.glob("*/session.json"):
            with contextlib.suppress(NotRunningError):
                session = Session.load(file.parent)
                if session.alive:
                    found.append(session)
        return found

    def __enter__(self) -> FaultTolerantCluster:
        self.start_redis()
        self.start_head()
        self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(list(self._processes.values())):
            everything = []
            with contextlib.suppress(psutil.NoSuchProcess):
                everything = psutil.Process(process.pid).children(recursive=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            for each in everything:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.kill()
            process.wait()


@pytest.fixture
def cluster() -> Iterator[FaultTolerantCluster]:
    folder = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    try:
        with FaultTolerantCluster(folder) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def asked(session: Session, path: str) -> Any:
    """What the REST API of a machine answers."""
    host, port = session.rest
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=20.0) as answer:
        return json.loads(answer.read())


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
        cluster.start_head()
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
