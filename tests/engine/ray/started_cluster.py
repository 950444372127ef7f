"""Clusters that `ray start` has made, as on machines of their own: this process is not connected to them."""

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
from pathlib import Path
from typing import Any, Self

import psutil
from tests.free_port import free_port

from headrace.engine.session import Session
from headrace.exceptions import NotRunningError

ROOT = Path(__file__).parents[3]


class StartedCluster:
    """A head.

    Attributes:
        python: what it runs on, in an environment with Ray.
        folder: its own, with a short path: sockets are in it.
        sessions: where session folders are.
    """

    def __init__(self, python: Path = Path(sys.executable)) -> None:
        self.python = python
        self.folder = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
        self.sessions = self.folder / "s"
        self._gcs = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._gcs}"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HEADRACE_"))}
        return {
            **kept,
            # As in an activated environment: `python` in a job's entrypoint is this one.
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
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
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_head(self, *options: str, **more: str) -> None:
        # Not there on a new machine; here it has Ray find another machine's and take it for the head.
        (self.folder / "r" / "ray_current_cluster").unlink(missing_ok=True)
        own = ("--head", f"--port={self._gcs}", "--num-cpus=2", f"--temp-dir={self.folder / 'r'}")
        self._ray("head", *own, *options, **more)

    def start_worker(self) -> None:
        self._ray("worker", f"--address={self.address}", "--num-cpus=4", '--resources={"worker": 4}')

    def ray(self, *arguments: str) -> tuple[str, ...]:
        """A call of Ray's command line."""
        return (str(self.python), "-m", "ray.scripts.scripts", *arguments)

    def _ray(self, name: str, *options: str, **more: str) -> None:
        shared = ("--node-ip-address=127.0.0.1", "--object-store-memory=80000000", "--block")
        self._start(name, *self.ray("start", *options, *shared), **more)

    def kill_head(self) -> None:
        """At once and without a word, as a machine dies: Ray's processes, and all that they have started."""
        head = psutil.Process(self._processes["head"].pid)
        for process in [head, *head.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes["head"].wait()

    def headrace(self, *arguments: str) -> str:
        """Run a command on the cluster."""
        cluster = {"HEADRACE_ENGINE": "ray", "HEADRACE_RAY_ADDRESS": self.address}
        return self.run(str(self.python), "-m", "headrace", *arguments, **cluster)

    def run(self, *command: str, **more: str) -> str:
        """What a command prints that must succeed."""
        done = subprocess.run(
            command,
            env={**self.environment(), **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def machines(self) -> list[Session]:
        """The sessions of the machines whose root lives."""
        found = {}
        for file in self.sessions.glob("*/session.json"):  # one of them through the link to the current one
            with contextlib.suppress(NotRunningError):
                session = Session.load(file.parent)
                if session.alive:
                    found[session.dir] = session
        return list(found.values())

    def begin(self) -> None:
        self.start_head("--include-dashboard=false")

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
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
        shutil.rmtree(self.folder, ignore_errors=True)


def asked(session: Session, path: str) -> Any:
    """What the REST API of a machine answers."""
    host, port = session.rest
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=20.0) as answer:
        return json.loads(answer.read())
