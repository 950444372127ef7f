"""What faults cost: processes are killed and stopped under load, and what the clients saw is printed as one table.

    python -m bench.chaos                  # Headrace, and on Ray and Ray Serve beside it where their environments are
    python -m bench.chaos --seconds 120    # how long random processes are killed, one every two seconds
    python -m bench.chaos --only headrace

`python -m bench install headrace-ray ray` makes the environments. 16 connections call a deployment with 20 ms of work
on 2 replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.environments import default_folder, python_of
from bench.load import Outcome, closed_loop
from bench.processes import adopt_orphans, descendants

APP = Path(__file__).parent / "apps" / "fault_api.py"
CONNECTIONS = 16
WARM_UP_S = 1.0
BEFORE_S = 2.0
AFTER_S = 8.0
AFTER_REPLACED_S = 2.0
RECOVERS_WITHIN_S = 90.0
KILL_EVERY_S = 2.0
NAMES = {
    "headrace": {"replica": "headrace:replic", "controller": "headrace:contro", "proxy": "headrace:proxy"},
    "headrace-ray": {"replica": "headrace:replic", "controller": "ray::ControllerA", "proxy": "headrace:proxy"},
    "ray": {"replica": "ray::ServeReplica", "controller": "ray::ServeController", "proxy": "ray::ProxyActor"},
}
KINDS = ("replica", "controller", "proxy")


class Server:
    """The application, served by one of them."""

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
        self.whole = {kind: len(self.pids(kind)) for kind in KINDS}

    def _read(self, wanted: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == wanted:
                return
        raise RuntimeError(f"{self.framework} ended before it was {wanted}")

    def _ask(self, command: str, answer: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        self._read(answer)

    def update(self) -> None:
        """Roll out another version; returns when it runs."""
        self._ask("update", "updated")

    def wait_controlled(self) -> None:
        """Until the controller says that everything runs."""
        self._ask("status", "running")

    def pids(self, kind: str) -> list[int]:
        """Its living processes of a kind: replica, controller or proxy."""
        name = NAMES[self.framework][kind]
        found = []
        for process in psutil.Process().children(recursive=True):  # Ray's processes leave their parent
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if process.name().startswith(name) or "".join(process.cmdline()[:1]).startswith(name):
                    found.append(process.pid)
        return found

    def signal_one(self, kind: str, number: signal.Signals) -> int:
        """Send a signal to one process of a kind; returns its pid."""
        pid = random.choice(self.pids(kind))
        os.kill(pid, number)
        return pid

    def wait_replaced(self, kind: str, victim: int) -> float:
        """Until there are as many of a kind as there were, without the one, and a controller has found everything.

        Returns:
            How long that took, seconds.
        """
        began = time.monotonic()
        while time.monotonic() < began + RECOVERS_WITHIN_S:
            pids = self.pids(kind)
            if victim not in pids and len(pids) >= self.whole[kind]:
                if kind == "controller":
                    self.wait_controlled()
                return time.monotonic() - began
            time.sleep(0.02)
        return float("inf")

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


class Seen(NamedTuple):
    """What came of one fault. `replaced_s`: until another process was there; None where none was to come."""

    at: float
    outcomes: list[Outcome]
    replaced_s: float | None
    replicas_restarted: bool

    def __str__(self) -> str:
        """One cell of the table."""
        after = sorted(o.ended for o in self.outcomes if o.status == 200 and o.ended >= self.at)
        moments = [self.at, *after, max(o.ended for o in self.outcomes)]
        gap = max(later - earlier for earlier, later in itertools.pairwise(moments))
        failed = sum(o.status != 200 for o in self.outcomes)
        unanswered = sum(o.status == 0 for o in self.outcomes)
        warm = min((o.began for o in self.outcomes), default=0.0) + WARM_UP_S
        steady = _p99([o for o in self.outcomes if o.began >= warm and o.ended < self.at])
        later = _p99([o for o in self.outcomes if o.ended >= self.at])
        parts = [
            f"{failed} of {len(self.outcomes):,} failed",
            f"{gap:.2f} s without service",
            f"p99 {1000 * later:.0f} ms (before: {1000 * steady:.0f} ms)",
        ]
        if unanswered:
            parts.append(f"{unanswered} never answered")
        if self.replaced_s is not None:
            parts.append(f"replaced after {self.replaced_s:.2f} s")
        if self.replicas_restarted:
            parts.append("replicas restarted")
        return ", ".join(parts)


def _p99(outcomes: list[Outcome]) -> float:
    took = [o.ended - o.began for o in outcomes if o.status == 200]
    return statistics.quantiles(took, n=100)[98] if len(took) > 1 else float("nan")


Fault = Callable[[Server], tuple[str, int] | None]
"""Does it, and tells of which kind the process was that is to be replaced, and its pid."""


def _signals(kind: str, number: signal.Signals) -> Fault:
    return lambda server: (kind, server.signal_one(kind, number))


def _random_kills(seconds: float) -> Fault:
    def kill(server: Server) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(IndexError, ProcessLookupError):
                server.signal_one(random.choice(KINDS), signal.SIGKILL)
            time.sleep(KILL_EVERY_S)

    return kill


async def under_load(server: Server, fault: Fault, after_s: float) -> Seen:
    stop = asyncio.Event()
    load = asyncio.create_task(closed_loop(server.port, CONNECTIONS, stop))
    await asyncio.sleep(WARM_UP_S + BEFORE_S)
    replicas = set(server.pids("replica"))
    at = time.monotonic()
    hit = await asyncio.to_thread(fault, server)
    replaced_s = await asyncio.to_thread(server.wait_replaced, *hit) if hit is not None else None
    await asyncio.sleep(max(AFTER_REPLACED_S, after_s - (replaced_s or 0.0)))
    stop.set()
    restarted = hit is not None and hit[0] != "replica" and set(server.pids("replica")) != replicas
    return Seen(at, await load, replaced_s, restarted)


def _update(server: Server) -> None:
    server.update()


def faults(seconds: float) -> dict[str, tuple[Fault, float]]:
    """What is done, and for how long the load goes on afterwards."""
    return {
        "replica killed": (_signals("replica", signal.SIGKILL), AFTER_S),
        "controller killed": (_signals("controller", signal.SIGKILL), AFTER_S),
        "rolling update": (_update, 1.0),
        "replica stopped": (_signals("replica", signal.SIGSTOP), AFTER_S),
        "proxy killed": (_signals("proxy", signal.SIGKILL), AFTER_S),
        f"random kills for {seconds:g} s": (_random_kills(seconds), AFTER_S),
    }


def _tell(framework: str, fault: str, seen: object) -> str:
    print(f"{framework}, {fault}: {seen}", file=sys.stderr, flush=True)
    return str(seen)


def measure(framework: str, python: Path, seconds: float) -> dict[str, str]:
    """One column of the table."""
    cells = {}
    with serving(framework, python) as server:
        for name, (fault, after_s) in faults(seconds).items():
            if framework == "ray" and name.startswith("random"):
                continue  # without service for most of the time, and hours to wait for
            try:
                seen: object = asyncio.run(under_load(server, fault, after_s))
            except (IndexError, RuntimeError) as error:
                seen = error
            cells[name] = _tell(framework, name, seen)
    if framework == "headrace":
        with serving(framework, python, num_proxies=2) as server:
            name = "one of 2 proxies killed"
            cells[name] = _tell(framework, name, asyncio.run(under_load(server, *faults(0)["proxy killed"])))
    return cells


def left_behind(sessions: Path) -> str:
    """What there still is of instances of Headrace that have ended."""
    found = [f"process {psutil.Process(pid).name()}" for pid in descendants()]
    found += [f"folder {path.name}" for path in sessions.iterdir() if path.is_dir()]
    found += [f"shared memory {path.name}" for path in Path("/dev/shm").glob("headrace-*") if not _in_use(path)]
    return ", ".join(found) or "nothing"


def _in_use(shared: Path) -> bool:
    from headrace.engine.session import is_alive

    return is_alive(shared)


def table(columns: dict[str, dict[str, str]]) -> str:
    rows = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    lines = [f"| fault | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {row} | {' | '.join(cells.get(row, 'not tried') for cells in columns.values())} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long random processes are killed")
    parser.add_argument("--only", choices=list(NAMES), help="one of them")
    options = parser.parse_args()
    adopt_orphans()
    pythons = {name: python_of(default_folder(), None if name == "headrace" else name) for name in NAMES}
    if options.only and not pythons[options.only].exists():
        parser.error(f"--only {options.only}: python -m bench install {options.only} makes its environment")
    frameworks = {name: python for name, python in pythons.items() if python.exists() and options.only in (None, name)}
    columns = {}
    with tempfile.TemporaryDirectory(prefix="hb-") as sessions:
        os.environ["HEADRACE_SESSIONS"] = sessions  # a running instance of the user's stays out of it
        for framework, python in frameworks.items():
            columns[framework] = measure(framework, python, options.seconds)
            if framework != "ray":
                columns[framework]["left behind in the end"] = _tell(
                    framework, "left behind", left_behind(Path(sessions))
                )
    print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
