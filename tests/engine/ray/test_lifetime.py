"""How instances on a cluster begin and end, and with whom."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engine.ray.applications import Where
from tests.engine.ray.conftest import Machines, get, kill, until

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, StartupError

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
pytest.importorskip("ray")

SCRIPT = """
import sys
import headrace as serve
from tests.engine.ray.applications import Where
{start}
handle = serve.run(Where.bind())
print(handle.remote().result(timeout_s=30), flush=True)
{end}
"""


@pytest.fixture
def cleared(machines: Machines) -> Machines:
    """The cluster, without an instance."""
    serve.shutdown()
    until(machines.nothing_is_left)
    return machines


def script(machines: Machines, start: str = "", end: str = "", **environment: str) -> subprocess.Popen[str]:
    """A driver on the cluster's head."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(start=start, end=end)],
        env={**os.environ, "HEADRACE_RAY_ADDRESS": machines.address, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def end(machines: Machines) -> None:
    """End the instance that a script has left."""
    driver.find("ray").shutdown()
    until(machines.nothing_is_left)


def test_what_a_script_serves_on_a_cluster_outlives_it(cleared: Machines) -> None:
    start = "serve.start(engine='ray', http_options={'port': 0}, rest_options={'port': 0})"
    process = script(cleared, start)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert get(cleared.here()).split() == said.split()[-2:]
    end(cleared)


def test_a_script_needs_no_change_but_a_variable(cleared: Machines) -> None:
    environment = {"HEADRACE_ENGINE": "ray"}
    start = "serve.init(); serve.start(http_options={'port': 0})"
    process = script(cleared, start, "serve.shutdown()", **environment)
    process.communicate(timeout=100)
    assert process.returncode == 0
    until(cleared.nothing_is_left)


def test_an_instance_that_is_not_detached_ends_with_its_driver_however_that_ends(cleared: Machines) -> None:
    start = "serve.start(engine='ray', detached=False, http_options={'port': 0})"
    process = script(cleared, start, "sys.stdin.read()")
    try:
        assert process.stdout is not None
        # Ray may have something to say too.
        assert any(len(line.split()) == 2 and line.split()[1].isdecimal() for line in process.stdout)
    finally:
        kill(process.pid)
        process.communicate()
    until(cleared.nothing_is_left)


def test_a_start_that_fails_says_why_and_leaves_nothing(cleared: Machines) -> None:
    cleared.leave_only_the_head()  # machines that share a host take the next free port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"{port}.*in use"):
            serve.start(engine="ray", http_options={"port": port}, rest_options={"port": 0})
    until(cleared.nothing_is_left)


def test_who_starts_a_second_time_gets_what_runs(instance: driver.Client, machines: Machines) -> None:
    process = script(machines, "serve.start(engine='ray')")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert get(machines.here()).split() == said.split()[-2:]


def test_one_instance_follows_another_at_once(cleared: Machines) -> None:
    """Also where the last one was still making the agents of other machines when it was told to end."""
    while sum(node["Alive"] for node in cleared.cluster.list_all_nodes_ray()) < 3:
        cleared.add()
    for _ in range(4):
        serve.start(engine="ray", http_options={"port": 0}, rest_options={"port": 0})
        assert driver.find().status().applications == []
        serve.shutdown()
    until(cleared.nothing_is_left)
    cleared.remove_all_added()


def test_machines_say_themselves_what_they_have(cleared: Machines) -> None:
    with pytest.raises(ConfigError, match="num_cpus: is not for engine='ray'"):
        serve.start(engine="ray", num_cpus=2)


def test_a_ray_client_is_sent_to_a_machine_of_the_cluster() -> None:
    code = "import headrace as serve; serve.start(engine='ray', address='ray://127.0.0.1:10001')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "must run on a machine of the cluster" in done.stderr


def test_headonly_serves_http_on_the_head_alone(cleared: Machines) -> None:
    serve.start(engine="ray", proxy_location="HeadOnly", http_options={"port": 0}, rest_options={"port": 0})
    try:
        cleared.add_workers()
        records = cleared.records()
        assert [node for node, record in records.items() if record.http] == [cleared.head.node_id]
        serve.run(Where.options(num_replicas=2, ray_actor_options={"resources": {"worker": 3}}).bind())
        assert get(cleared.here()).split()[0] != cleared.head.node_id
    finally:
        serve.shutdown()
    until(cleared.nothing_is_left)


def test_the_command_line_starts_and_ends_an_instance_on_a_cluster(cleared: Machines, tmp_path: Path) -> None:
    environment = {**os.environ, "HEADRACE_RAY_ADDRESS": cleared.address}

    def headrace(*arguments: str) -> str:
        command = [sys.executable, "-m", "headrace", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    headrace("start", "--engine", "ray", "--http-port", "0", "--rest-port", "0")
    config = tmp_path / "serve.yaml"
    config.write_text(
        "applications:\n"
        "- import_path: tests.engine.ray.applications:where\n"
        f"  runtime_env: {{env_vars: {{PYTHONPATH: {os.getcwd()}}}}}\n"
    )
    headrace("deploy", str(config))
    assert "RUNNING" in headrace("status")
    assert len(get(cleared.here()).split()) == 2
    headrace("shutdown", "--yes")
    until(cleared.nothing_is_left)


JOB = """
import json
import os
import headrace as serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Reader:
    def __call__(self) -> str:
        return f"{open('data.txt').read()} {os.environ['COLOUR']} {os.getcwd()}"

if __name__ == "__main__":
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    print(serve.run(Reader.bind()).remote().result(timeout_s=60))
"""


def test_a_job_of_the_cluster_serves_there_in_the_jobs_environment(cleared: Machines, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "data.txt").write_text("data")
    # What `ray job submit` sets for the script.
    job = {"runtime_env": {"working_dir": str(tmp_path), "env_vars": {"COLOUR": "blue"}}}
    environment = {**os.environ, "RAY_ADDRESS": cleared.address, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    command = [sys.executable, "job.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    data, colour, folder = done.stdout.split()[-3:]
    assert (data, colour) == ("data", "blue")
    assert Path(folder) != tmp_path, "the replica works in its machine's own copy"
    end(cleared)
