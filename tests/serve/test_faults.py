"""What clients see when processes die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import DeploymentFailedError, ReplicaUnavailableError

from .conditions import deployment, lines

CONNECTIONS = 16


@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Worker:
    def __init__(self, version: int = 1) -> None:
        self.version = version

    async def __call__(self, request: Any) -> int:
        await asyncio.sleep(0.02)
        return os.getpid()

    async def pid(self) -> int:
        return os.getpid()

    async def hang(self) -> None:
        await asyncio.sleep(60)

    @serve.retryable
    async def slow_pid(self) -> int:
        await asyncio.sleep(0.3)
        return os.getpid()


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        threading.Event().wait(0.02)


def replica_pids() -> set[int]:
    return {
        replica.pid
        for application in driver.find().status().applications
        for deployment in application.deployments
        for replica in deployment.replicas
        if replica.state == "RUNNING" and replica.pid
    }


async def _load(url: str, seconds: float, fault: Any) -> list[int]:
    statuses: list[int] = []
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        stop = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < stop:
                statuses.append((await client.get("/")).status_code)

        tasks = [asyncio.create_task(one()) for _ in range(CONNECTIONS)]
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(fault)
        await asyncio.gather(*tasks)
    return statuses


def test_a_replica_killed_under_load_fails_no_idempotent_request_and_is_replaced(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Worker.bind())
    before = replica_pids()
    victim = min(before)
    statuses = asyncio.run(_load(instance.http_url or "", 1.5, lambda: os.kill(victim, signal.SIGKILL)))
    assert set(statuses) == {200}
    until(lambda: len(replica_pids()) == 2 and victim not in replica_pids())


def test_a_call_in_flight_on_a_killed_replica_fails_clearly_unless_it_is_retryable(http: httpx.Client) -> None:
    handle = serve.run(Worker.options(num_replicas=1).bind())
    hanging = handle.hang.remote()
    retried = handle.slow_pid.remote()
    pid = handle.pid.remote().result()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ReplicaUnavailableError):
        hanging.result(timeout_s=10)
    assert retried.result(timeout_s=10) != pid


def test_a_post_in_flight_on_a_killed_replica_gets_503(http: httpx.Client) -> None:
    handle = serve.run(Worker.options(num_replicas=1).bind())
    pid = handle.pid.remote().result()
    timer = threading.Timer(0.01, lambda: os.kill(pid, signal.SIGKILL))

    async def posts() -> set[int]:
        async with httpx.AsyncClient(base_url=http.base_url, timeout=20) as client:
            timer.start()
            answers = await asyncio.gather(*(client.post("/", content=b"x") for _ in range(8)))
        return {answer.status_code for answer in answers}

    assert asyncio.run(posts()) <= {200, 503}


def test_after_a_proxy_is_killed_new_connections_wait_for_the_next(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Worker.bind())
    assert http.get("/").status_code == 200
    (proxy,) = instance.status().proxies
    assert proxy.pid
    os.kill(proxy.pid, signal.SIGKILL)
    with httpx.Client(base_url=http.base_url, timeout=20) as fresh:
        assert fresh.get("/").status_code == 200


def test_a_killed_controller_is_replaced_and_adopts_the_replicas(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Worker.bind())
    before = replica_pids()
    controller = instance.status().controller_pid
    statuses = asyncio.run(_load(instance.http_url or "", 1.5, lambda: os.kill(controller, signal.SIGKILL)))
    assert set(statuses) == {200}
    until(lambda: instance.status().controller_pid != controller)
    until(lambda: replica_pids() == before)
    serve.run(Worker.options(num_replicas=3).bind())
    scaled = replica_pids()
    assert len(scaled) == 3 and before < scaled
    serve.run(Worker.options(num_replicas=3).bind(2))
    until(lambda: len(replica_pids()) == 3 and not replica_pids() & scaled)


SLOW_TO_BUILD = """
import pathlib, time
import headrace as serve

pathlib.Path("begun").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)

@serve.deployment
class Model:
    async def __call__(self, request) -> str:
        return "built"

app = Model.bind()
"""


def test_a_controller_killed_while_an_application_is_built_builds_it_again_and_leaves_nothing(
    http: httpx.Client, instance: driver.Client, tmp_path: Path
) -> None:
    (tmp_path / "slow_to_build.py").write_text(SLOW_TO_BUILD)
    application = {
        "name": "built",
        "route_prefix": "/built",
        "import_path": "slow_to_build:app",
        "runtime_env": {"working_dir": str(tmp_path)},
    }
    answer = httpx.put(f"{instance.rest_url}/api/serve/applications/", json={"applications": [application]})
    assert answer.status_code == 200
    until((tmp_path / "begun").exists)

    def builders() -> set[int]:
        found = set()
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                ours = process.name() == "headrace:builde" and process.status() != psutil.STATUS_ZOMBIE
                if ours and process.environ().get("HEADRACE_SESSIONS") == os.environ["HEADRACE_SESSIONS"]:
                    found.add(process.pid)
        return found

    (first,) = builders()
    os.kill(instance.status().controller_pid, signal.SIGKILL)
    until(lambda: len(builders()) == 1 and first not in builders())
    (tmp_path / "go").touch()
    until(lambda: http.get("/built").status_code == 200)
    until(lambda: not builders())


@serve.deployment
class Dying:
    def __init__(self, file: str) -> None:
        with Path(file).open("a") as starts:
            starts.write(f"{time.monotonic()}\n")
        threading.Timer(0.2, os._exit, [3]).start()

    async def __call__(self, request: Any) -> str:
        return "alive"


def test_a_replica_that_keeps_dying_is_started_ever_less_often_and_status_says_so(
    http: httpx.Client, tmp_path: Path
) -> None:
    serve.run(Dying.bind(str(tmp_path / "starts")))
    until(lambda: len(lines(tmp_path / "starts")) >= 6)
    until(lambda: "Next try in" in deployment("Dying").message)
    said = deployment("Dying")
    assert said.status == "UNHEALTHY"
    assert "Replicas keep dying soon after they start" in said.message
    # Ray does not tell exit codes.
    assert "exit code 3" in said.message or "it crashed, or was killed" in said.message
    starts = [float(line) for line in lines(tmp_path / "starts")]
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] < pauses[2] < pauses[4]


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise ValueError("the weights are missing")


def test_a_constructor_that_raises_is_the_error_of_run(http: httpx.Client) -> None:
    with pytest.raises(DeploymentFailedError, match="the weights are missing"):
        serve.run(Broken.options(max_constructor_retry_count=1).bind())


SCRIPT = """
import headrace as serve, os, sys
serve.start(http_options={"port": 0}, rest_options={"port": 0})

@serve.deployment
class Model:
    async def __call__(self, request):
        return "ok"

serve.run(Model.bind())
from headrace import client
print(client.find().http_url, client.find().session.root_pid, client.find().session.dir, flush=True)
sys.stdin.read()
"""


@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_when_the_script_is_killed_nothing_of_it_remains(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url, root_pid, folder = process.stdout.readline().split()
    processes = [psutil.Process(int(root_pid)), *psutil.Process(int(root_pid)).children(recursive=True)]
    assert len(processes) >= 4
    assert httpx.get(url).text == "ok"
    process.kill()
    process.wait()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes))
    until(lambda: not Path(folder).exists())
    process.stdout.close()


def test_garbage_on_a_replicas_socket_is_closed_and_harms_nobody(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Worker.bind())
    for path in instance.session.dir.glob("*.sock"):
        if path.name == "root.sock":
            continue
        with socket.socket(socket.AF_UNIX) as garbage:
            garbage.settimeout(10)
            garbage.connect(str(path))
            garbage.sendall(os.urandom(4096))
            try:
                while garbage.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert http.get("/").status_code == 200
