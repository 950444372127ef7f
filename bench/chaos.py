"""What faults cost: processes are killed and stopped under load, and what the clients saw is printed as one table.

    python -m bench.chaos                  # Headrace, and Ray Serve beside it where its environment is made
    python -m bench.chaos --seconds 120    # how long random processes are killed, one every two seconds
    python -m bench.chaos --only headrace

16 connections call a deployment with 20 ms of work on 2 replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.environments import default_folder, python_of
from bench.load import Outcome, closed_loop
from bench.processes import adopt_orphans

APP = Path(__file__).parent / "apps" / "fault_api.py"
CONNECTIONS = 16
BEFORE_S = 2.0
AFTER_S = 8.0
KILL_EVERY_S = 2.0
NAMES = {
    "headrace": {"replica": "headrace:replic", "controller": "headrace:contro", "proxy": "headrace:proxy"},
    "ray": {"replica": "ray::ServeReplica", "controller": "ray::ServeController", "proxy": "ray::ProxyActor"},
}


class Server:
    """The application, served by one of the two."""

    def __init__(self, framework: str, python: Path, num_proxies: int) -> None:
        self.framework = framework
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [str(python), str(APP), framework, str(self.port), str(num_proxies)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read("ready")

    def _read(self, wanted: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == wanted:
                return
        raise RuntimeError(f"{self.framework} ended before it was {wanted}")

    def update(self) -> None:
        """Roll out another version; returns when it runs."""
        assert self.process.stdin is not None
        self.process.stdin.write("update\n")
        self.process.stdin.flush()
        self._read("updated")

    def pids(self, kind: str) -> list[int]:
        """Its processes of a kind: replica, controller or proxy."""
        name = NAMES[self.framework][kind]
        found = []
        for process in psutil.Process().children(recursive=True):  # Ray's processes leave their parent
            with contextlib.suppress(psutil.Error):
                if process.name().startswith(name) or "".join(process.cmdline()[:1]).startswith(name):
                    found.append(process.pid)
        return found

    def signal_one(self, kind: str, number: signal.Signals) -> None:
        os.kill(random.choice(self.pids(kind)), number)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextlib.contextmanager
def serving(framework: str, python: Path, num_proxies: int = 1) -> Iterator[Server]:
    server = Server(framework, python, num_proxies)
    try:
        yield server
    finally:
        server.end()


async def _under_load(server: Server, fault: Callable[[], None], after_s: float) -> tuple[float, list[Outcome]]:
    stop = asyncio.Event()
    load = asyncio.create_task(closed_loop(server.port, CONNECTIONS, stop))
    await asyncio.sleep(BEFORE_S)
    at = time.monotonic()
    await asyncio.to_thread(fault)
    await asyncio.sleep(after_s)
    stop.set()
    return at, await load


def told(at: float, outcomes: list[Outcome]) -> str:
    """One cell of the table."""
    after = sorted(o.ended for o in outcomes if o.status == 200 and o.ended >= at)
    gap = max((b - a for a, b in zip([at, *after], after, strict=False)), default=float("inf"))
    failed = sum(o.status != 200 for o in outcomes)
    unanswered = sum(o.status == 0 for o in outcomes)
    steady = _p99([o for o in outcomes if o.ended < at])
    later = _p99([o for o in outcomes if o.ended >= at])
    text = f"{failed} of {len(outcomes):,} failed, {gap:.2f} s without service, p99 {1000 * later:.0f} ms "
    text += f"(before: {1000 * steady:.0f} ms)"
    return text + (f", {unanswered} never answered" if unanswered else "")


def _p99(outcomes: list[Outcome]) -> float:
    took = [o.ended - o.began for o in outcomes if o.status == 200]
    return statistics.quantiles(took, n=100)[98] if len(took) > 1 else float("nan")


def faults(server: Server, seconds: float) -> dict[str, tuple[Callable[[], None], float]]:
    """What is done, and for how long the load goes on afterwards."""

    def random_kills() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            kind = random.choice(["replica", "controller", "proxy"])
            with contextlib.suppress(IndexError, ProcessLookupError):
                server.signal_one(kind, signal.SIGKILL)
            time.sleep(KILL_EVERY_S)

    return {
        "replica killed": (lambda: server.signal_one("replica", signal.SIGKILL), AFTER_S),
        "controller killed": (lambda: server.signal_one("controller", signal.SIGKILL), AFTER_S),
        "rolling update": (server.update, 1.0),
        "replica stopped": (lambda: server.signal_one("replica", signal.SIGSTOP), AFTER_S),
        "proxy killed": (lambda: server.signal_one("proxy", signal.SIGKILL), AFTER_S),
        f"random kills for {seconds:g} s": (random_kills, AFTER_S),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long random processes are killed")
    parser.add_argument("--only", choices=["headrace", "ray"], help="one of the two")
    options = parser.parse_args()
    adopt_orphans()
    ray = python_of(default_folder(), "ray")
    frameworks = {"headrace": Path(sys.executable), **({"ray": ray} if ray.exists() else {})}
    if options.only:
        frameworks = {options.only: frameworks[options.only]}
    for framework, python in frameworks.items():
        print(f"\n{framework}\n\n| fault | what clients saw |\n| --- | --- |", flush=True)
        with serving(framework, python) as server:
            for name, (fault, after_s) in faults(server, options.seconds).items():
                if framework == "ray" and name.startswith("random"):
                    continue  # without service for most of the time, and hours to wait for
                try:
                    print(f"| {name} | {told(*asyncio.run(_under_load(server, fault, after_s)))} |", flush=True)
                except (IndexError, RuntimeError) as error:
                    print(f"| {name} | {error} |", flush=True)
        if framework == "headrace":
            with serving(framework, python, num_proxies=2) as server:
                fault, after_s = faults(server, 0)["proxy killed"]
                print(f"| one of 2 proxies killed | {told(*asyncio.run(_under_load(server, fault, after_s)))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
