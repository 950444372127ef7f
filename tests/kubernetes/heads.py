"""Heads to drive: a Headrace instance each, as the first container of a head pod starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .kuberay_controller import Cluster

T = TypeVar("T")

DEADLINE_S = 60.0
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
        start: options of `headrace start`.
        environment: on top of this process's.
        ports: of proxies and REST; 0 for any.
    """

    def __init__(
        self,
        folder: Path,
        start: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        self.folder = folder
        self._start = start
        self._environment = environment or {}
        self._ports = ports
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

    def begin(self) -> None:
        """Start it, for the first time or again."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "RAY_"))}
        http_port, rest_port = self._ports
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "headrace", "start", "--block"),
                    *("--http-port", str(http_port), "--rest-host", "0.0.0.0", "--rest-port", str(rest_port)),
                    *self._start,
                ],
                cwd=self.folder,
                env={
                    **kept,
                    "HEADRACE_SESSIONS": str(self.folder / "s"),
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": TOKEN,
                    "COLUMNS": "200",
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._says("Serving.")

    def _says(self, text: str) -> str:
        def said() -> str:
            output = (self.folder / "output").read_text(errors="replace")
            assert self._process is not None
            assert self._process.poll() is None or text in output, output
            return output if text in output else ""

        return until(said, text)

    @property
    def dashboard_url(self) -> str:
        return self._told(r"REST API\s+(http://\S+)")

    @property
    def proxy_url(self) -> str:
        return self._told(r"Applications\s+(http://\S+)")

    def _told(self, pattern: str) -> str:
        found = re.search(pattern, self._says("Serving."))
        assert found is not None
        return found[1].rstrip("/")

    def as_cluster(self, name: str, spec: str) -> Cluster:
        return Cluster(name, spec, self.dashboard_url, self.proxy_url)

    def kill(self) -> None:
        """As a pod dies whose node is gone."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True, check=False
        )
        for pid in (self._process.pid, *map(int, children.stdout.split())):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def short_folder() -> Path:
    """Not pytest's: the path of a Unix socket has at most 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="hk-"))
