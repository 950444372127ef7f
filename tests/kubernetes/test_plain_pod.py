"""A pod without Ray, by the command of its manifest: what its probes see, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.free_port import free_port

from headrace.config import load_config
from headrace.kubernetes.deployment import (
    CONFIG_FILE,
    CONFIG_FOLDER,
    ONGOING,
    REST_PORT,
    PlainOptions,
    deployment_manifests,
)
from headrace.kubernetes.served_config import ServedConfig

from .heads import APPLICATIONS, DEADLINE_S, short_folder, until


class Pod:
    """One pod's only container, on ports of its own."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.port, self.rest_port = free_port(), free_port()
        (folder / CONFIG_FILE).write_text(f"http_options: {{port: {self.port}}}\n{config}")
        shutil.copy(APPLICATIONS, folder / "fruit.py")
        served = ServedConfig((folder / CONFIG_FILE).read_text(), load_config(folder / CONFIG_FILE))
        (deployment,) = (
            each
            for each in deployment_manifests(PlainOptions(image="image", name="fruit"), served)
            if each["kind"] == "Deployment"
        )
        (self.container,) = deployment["spec"]["template"]["spec"]["containers"]
        self.process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        elsewhere = {
            f"{CONFIG_FOLDER}/{CONFIG_FILE}": str(self.folder / CONFIG_FILE),
            str(REST_PORT): str(self.rest_port),
        }
        given = [*self.container["command"], *self.container["args"]]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(
                [elsewhere.get(each, each) for each in given],
                cwd=self.folder,
                env={
                    **kept,
                    **{each["name"]: each["value"] for each in self.container["env"]},
                    "HEADRACE_SESSIONS": str(self.folder / "s"),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def probe(self, name: str) -> bool:
        """Whether a probe would succeed."""
        asked = self.container[name]["httpGet"]
        port = {"http": self.port, "rest": self.rest_port}[asked["port"]]
        try:
            url = f"http://127.0.0.1:{port}{asked['path']}"
            return httpx.get(url, headers={"Host": "10.244.0.9:80"}, timeout=3.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def ask(self, **params: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}/", params=params, timeout=30.0, trust_env=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = short_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def pods(folder: Path) -> Iterator[list[Pod]]:
    started: list[Pod] = []
    yield started
    for pod in started:
        if pod.process.poll() is None:
            pod.process.send_signal(signal.SIGTERM)
            pod.process.wait(DEADLINE_S)


def test_a_pod_gets_requests_from_when_on_it_can_serve_them_until_it_has_served_them(
    folder: Path, pods: list[Pod]
) -> None:
    gate = folder / "gate"
    config = f"applications:\n- import_path: fruit:ripening\n  args: {{gate: '{gate}'}}\n"
    pod = Pod(folder, config)
    pods.append(pod)
    until(lambda: pod.probe("livenessProbe"), "the proxy")
    assert not pod.probe("startupProbe") and not pod.probe("readinessProbe")
    gate.touch()
    until(lambda: pod.probe("readinessProbe"), "the application")
    assert pod.probe("startupProbe")
    assert pod.ask().text == "ripe"
    # The port that the probes ask tells nobody else anything.
    details = f"http://127.0.0.1:{pod.rest_port}/api/serve/applications/"
    assert httpx.get(details, headers={"Host": "10.244.0.9:80"}, trust_env=False).status_code == 401

    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(pod.ask(awaited=str(folder / "done"))))
    caller.start()
    until(lambda: ongoing(pod) >= 1, "the metric of the request that the autoscaler goes by")
    pod.process.terminate()
    until(lambda: not pod.probe("livenessProbe"), "the end of new requests")
    (folder / "done").touch()
    assert pod.process.wait(DEADLINE_S) == 0
    caller.join()
    assert answers[0].text == "ripe"


def test_a_pod_whose_application_cannot_start_ends_and_says_why(folder: Path, pods: list[Pod]) -> None:
    pod = Pod(folder, "applications:\n- import_path: fruit:unripe\n")
    pods.append(pod)
    assert pod.process.wait(DEADLINE_S) == 1
    assert "no fruit in the store" in (folder / "output").read_text()


def ongoing(pod: Pod) -> float:
    name = f"ray_{ONGOING}"
    text = httpx.get(f"http://127.0.0.1:{pod.port}/-/metrics", timeout=30.0, trust_env=False).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
