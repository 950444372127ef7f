"""Scripts that are sent to a cluster, and environments that Ray makes."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.engine.ray.conftest import until
from tests.engine.ray.started_cluster import StartedCluster, asked
from tests.free_port import free_port

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

VERSIONS = """
import importlib.metadata, json, sys
import headrace as serve

@serve.deployment
class Version:
    def __call__(self) -> str:
        return importlib.metadata.version("millstone")

serve.start(http_options={"port": 0}, rest_options={"port": 0})
for installer, options, wheel in zip(("pip", "uv"), ("pip_install_options", "uv_pip_install_options"), sys.argv[1:]):
    packages = {"packages": [wheel], options: ["--no-index"]}
    options = {"num_cpus": 0.1, "runtime_env": {installer: packages}}
    name = wheel.rpartition("/")[2].split("-")[1]
    handle = serve.run(Version.options(ray_actor_options=options).bind(), name=name, route_prefix=f"/{name}")
    print("version:", handle.remote().result(timeout_s=60))
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

    def submit(self, working_dir: Path, script: str, *arguments: str, runtime_env: dict[str, Any]) -> str:
        """Write a script to a folder, send it, and return what it has printed."""
        (working_dir / "script.py").write_text(script)
        options = ("--address", self.jobs, "--working-dir", str(working_dir))
        options += ("--runtime-env-json", json.dumps(runtime_env))
        return self.run(*self.ray("job", "submit", *options, "--", "python", "script.py", *arguments))


def thin_environment(folder: Path) -> Path:
    """The Python of an environment that has all that this one has and is small: Ray copies it for every `pip`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (packages,) = folder.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages()]
    (packages / "all.pth").write_text("".join(lines))
    return folder / "bin" / "python"


def make_wheel(folder: Path, version: str) -> Path:
    """A package `millstone` that holds nothing but its version."""
    about = f"millstone-{version}.dist-info"
    wheel = folder / f"millstone-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: millstone\nVersion: {version}\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterForJobs]:
    pytest.importorskip("aiohttp_cors", reason="ray[default] is not installed")
    python = thin_environment(tmp_path_factory.mktemp("thin"))
    with ClusterForJobs(python) as made:
        yield made
        made.headrace("shutdown", "--yes")
        until(lambda: not made.machines(), "the end")


def test_a_plain_script_is_sent_with_ray_job_submit_and_serves_on(cluster: ClusterForJobs, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("data")
    printed = cluster.submit(tmp_path, SCRIPT, runtime_env={"env_vars": {"COLOUR": "blue"}})
    assert "served: data blue" in printed
    (machine,) = cluster.machines()
    applications = asked(machine, "/api/serve/applications/")["applications"]
    assert applications["default"]["status"] == "RUNNING"


def test_replicas_get_the_packages_of_their_environments(cluster: ClusterForJobs, tmp_path: Path) -> None:
    wheels = [str(make_wheel(tmp_path, version)) for version in ("1.10", "2.0")]
    working_dir = tmp_path / "job"
    working_dir.mkdir()
    printed = cluster.submit(working_dir, VERSIONS, *wheels, runtime_env={})
    assert "version: 1.10" in printed
    assert "version: 2.0" in printed
