"""Scripts that are sent to a cluster, and environments that Ray makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.engine.ray.conftest import Machines, until
from tests.engine.ray.started_cluster import RAY, StartedCluster, asked
from tests.free_port import free_port

import headrace as serve
from headrace import client as driver

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]
pytest.importorskip("ray")

SCRIPT = """
import os
import headrace as serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Reader:
    def __call__(self) -> str:
        return f"{open('data.txt').read()} {os.environ['COLOUR']}"

serve.start(http_options={"port": 0}, rest_options={"port": 0})
print("served:", serve.run(Reader.bind()).remote().result(timeout_s=60))
"""


class ClusterForJobs(StartedCluster):
    """A head that takes jobs, at `jobs`."""

    def begin(self) -> None:
        port = free_port()
        self.jobs = f"http://127.0.0.1:{port}"
        agent = f"--dashboard-agent-listen-port={free_port()}"
        self.start_head("--include-dashboard=true", f"--dashboard-port={port}", agent)
        until(self._takes_jobs, "Ray's API for jobs")

    def _takes_jobs(self) -> bool:
        try:
            return httpx.get(f"{self.jobs}/api/jobs/", timeout=5.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def cluster() -> Iterator[ClusterForJobs]:
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    with ClusterForJobs() as made:
        yield made


def test_a_plain_script_is_sent_with_ray_job_submit_and_serves_on(cluster: ClusterForJobs, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "data.txt").write_text("data")
    submit = (str(RAY), "job", "submit", "--address", cluster.jobs, "--working-dir", str(tmp_path))
    variables = '{"env_vars": {"COLOUR": "blue"}}'
    done = subprocess.run(
        [*submit, "--runtime-env-json", variables, "--", "python", "script.py"],
        env={**cluster.environment(), "PATH": f"{RAY.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "served: data blue" in done.stdout
    (machine,) = cluster.machines()
    applications = asked(machine, "/api/serve/applications/")["applications"]
    assert applications["default"]["status"] == "RUNNING"
    cluster.headrace("shutdown", "--yes")
    until(lambda: not cluster.machines(), "the end")


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Version:
    """Tells the version of a package that is not installed here."""

    def __call__(self) -> str:
        import importlib.metadata

        return importlib.metadata.version("toposort")


def test_a_replica_gets_the_packages_of_its_environment(instance: driver.Client, machines: Machines) -> None:
    options = {"num_cpus": 0.1, "runtime_env": {"pip": ["toposort==1.10"]}}
    handle = serve.run(Version.options(ray_actor_options=options).bind())
    assert handle.remote().result(timeout_s=60) == "1.10"
