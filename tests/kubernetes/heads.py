"""Heads to drive: a Headrace instance each, as the first container of a head pod starts it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil
from tests.free_port import free_port

from headrace.config import ServeDeploySchema
from headrace.kubernetes.ray_service import REST_PORT, RayServiceOptions, ray_service
from headrace.kubernetes.served_config import ServedConfig

from .kuberay_controller import Cluster

T = TypeVar("T")

DEADLINE_S = 120.0
TOKEN = "the-token-of-the-cluster"
APPLICATIONS = Path(__file__).with_name("served_by_heads.py")


def until(wanted: Callable[[], T], what: str = "it") -> T:
    """What `wanted` returns once it is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s in vain for {what}"
        time.sleep(0.05)
    return found


class Head:
    """One head. Its REST API listens for everybody, and asks for the token that KubeRay gives to its pods.

    Args:
        folder: where it runs: the application's module is there, and its session folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        shutil.copy(APPLICATIONS, self.folder / "fruit.py")
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self, *, wait: bool = True) -> None:
        """Start it, for the first time or again. `wait`: until it can be used."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env={
                    **kept,
                    "HEADRACE_SESSIONS": str(self.folder / "s"),
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": TOKEN,
                    "COLUMNS": "200",
                    **self.environment(),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if wait:
            until(self._is_up, "the head")

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    @property
    def exit_status(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def _is_up(self) -> bool:
        assert self.exit_status is None, self.output
        return "\nLogs" in self.output

    def processes(self) -> list[psutil.Process]:
        """All that run in the pod: not all of them are children of the first one."""
        sessions = str(self.folder / "s")
        found = []
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("HEADRACE_SESSIONS") == sessions:
                found.append(process)
        return found

    def command(self) -> list[str]:
        http_port, rest_port = self._ports
        return [
            *(sys.executable, "-m", "headrace", "start", "--block"),
            *("--http-port", str(http_port), "--rest-host", "0.0.0.0", "--rest-port", str(rest_port)),
        ]

    def environment(self) -> dict[str, str]:
        return {}

    @property
    def proxy_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def as_cluster(self, name: str, spec: str) -> Cluster:
        return Cluster(name, spec, self.dashboard_url, self.proxy_url)

    def kill(self) -> None:
        """As a pod dies whose node is gone."""
        assert self._process is not None
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def end(self) -> None:
        """As a pod is deleted."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)


class RayHead(Head):
    """One head with Ray, started by the very script that is in the manifest, on ports of its own.

    Attributes:
        broken: Headrace is to listen at an address that is not this machine's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ray_port, self._agent_port, self._metrics_port = free_port(), free_port(), free_port()
        self.broken = False

    @property
    def agent_url(self) -> str:
        """Where Ray tells of the health of the node."""
        return f"http://127.0.0.1:{self._agent_port}"

    def config(self) -> ServedConfig:
        http = {"port": self._ports[0]}
        return ServedConfig("applications: []", ServeDeploySchema(applications=[], http_options=http))

    def command(self) -> list[str]:
        rest_port = self._ports[1]
        options = RayServiceOptions(image="image", name="head", drain_s=0)
        head = ray_service(options, self.config())["spec"]["rayClusterConfig"]["headGroupSpec"]
        (container,) = head["template"]["spec"]["containers"]
        (script,) = container["args"]
        if self.broken:
            script = script.replace("--http-host 0.0.0.0", "--http-host 192.0.2.99")
        return [*container["command"], script.replace(str(REST_PORT), str(rest_port))]

    def environment(self) -> dict[str, str]:
        """What KubeRay gives to the container."""
        params = {
            "block": None,
            "port": self._ray_port,
            "num-cpus": 4,
            "object-store-memory": 100_000_000,
            "include-dashboard": "false",
            "dashboard-agent-listen-port": self._agent_port,
            "metrics-export-port": self._metrics_port,
            "temp-dir": f"'{self.folder / 'ray'}'",
        }
        flags = [f"--{name}" if value is None else f"--{name}={value}" for name, value in params.items()]
        return {
            "KUBERAY_GEN_RAY_START_CMD": " ".join(("ray", "start", "--head", *flags)),
            "RAY_PORT": str(self._ray_port),
            "RAY_ADDRESS": f"127.0.0.1:{self._ray_port}",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # As the image has it.
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }


class RayWorker:
    """A worker's pod, by the script of the manifest."""

    def __init__(self, head: RayHead) -> None:
        self._head = head
        self._agent_port = free_port()
        options = RayServiceOptions(image="image", name="worker")
        (group,) = ray_service(options, head.config())["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        (self.container,) = group["template"]["spec"]["containers"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def agent_url(self) -> str:
        return f"http://127.0.0.1:{self._agent_port}"

    def __enter__(self) -> Self:
        environment = self._head.environment()
        flags = (
            f"--address={environment['RAY_ADDRESS']} --block --num-cpus=1 --object-store-memory=80000000",
            f"--dashboard-agent-listen-port={self._agent_port} --metrics-export-port={free_port()}",
        )
        self._process = subprocess.Popen(
            [*self.container["command"], *self.container["args"]],
            cwd=self._head.folder,
            env={
                **os.environ,
                **environment,
                "KUBERAY_GEN_RAY_START_CMD": f"ray start {' '.join(flags)}",
                "HEADRACE_SESSIONS": str(self._head.folder / "s"),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": TOKEN,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """As a pod is deleted."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE_S)


def short_folder() -> Path:
    """Not pytest's: the path of a Unix socket has at most 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="hk-"))
