"""What the control plane costs as it grows: `python -m bench.control_plane [--quick]`. No replica is a process here.

The controller is the real one, with its store on disk, its watch hub and its control socket; replicas answer at once
and in this process. So every figure is the controller's own. 1,000 watchers are connections of a second process.

"One deployment" in a column means that only one changes, and the figure should be the same in every row: cost follows
what changes, not what exists.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    ApplicationSpec,
    DeploymentSpec,
    DeploymentTargets,
    InitializeReply,
    WatchRequest,
    WatchUpdate,
)
from headrace.controller import replica_runner
from headrace.controller.controller import Controller
from headrace.controller.deployment_manager import DeploymentManager
from headrace.controller.rpc import rpc_server
from headrace.controller.store import Store
from headrace.engine.allocator import Allocator
from headrace.engine.listeners import listen_unix
from headrace.engine.process import ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.resources import Allocation, Machine, Refusal, ResourceRequest
from headrace.wire.rpc import RpcClient

SECRET = b"s" * 32
SIZES = ((10, 10), (100, 10), (1000, 1), (1000, 10), (10, 1000))
QUICK_SIZES = ((10, 10), (100, 10))
WATCHERS = 1000
REPEATS = 7
NEVER_S = 1e6


class InstantReplica:
    """What a controller's connection to a replica looks like, with a replica that does everything at once."""

    def __init__(self) -> None:
        self.closed = False
        self.on_lost: Callable[[], None] | None = None

    @classmethod
    async def connect(cls, address: str, secret: bytes, timeout_s: float | None = None) -> InstantReplica:
        return cls()

    async def call(self, method: str, body: Any = None, **options: Any) -> Any:
        if method == "initialize":
            return InitializeReply(replica_id=body.replica_id, pid=1, retryable_methods=[])
        return None

    def close(self) -> None:
        self.closed = True


class InstantEngine:
    """Processes that exist in a dict alone."""

    def __init__(self) -> None:
        self.alive: dict[str, ProcessInfo] = {}
        self._allocator = Allocator(Machine(num_cpus=1e6))
        self._exits: asyncio.Queue[ProcessExited] = asyncio.Queue()
        self._pids = itertools.count(1000)
        self._sequence = itertools.count(1)

    async def start(self, spec: ProcessSpec) -> int:
        pid = next(self._pids)
        self.alive[spec.name] = ProcessInfo(
            name=spec.name, role=spec.role, pid=pid, listen=spec.listen, started_at=time.time(), args=spec.args
        )
        return pid

    async def kill(self, name: str, signal: int) -> bool:
        process = self.alive.pop(name, None)
        if process is None:
            return False
        exited = ProcessExited(
            sequence=next(self._sequence), name=name, role=process.role, pid=process.pid, exit_code=None, signal=signal
        )
        self._exits.put_nowait(exited)
        return True

    async def list(self) -> Any:
        return list(self.alive.values())

    async def exits(self, since: int) -> AsyncIterator[ProcessExited]:
        while True:
            yield await self._exits.get()

    async def shutdown(self) -> None:
        self.alive.clear()

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        return self._allocator.allocate(name, request)

    def release(self, name: str) -> None:
        self._allocator.release(name)


def application(number: int, replicas: int, version: str = "v1") -> ApplicationSpec:
    """An application of one deployment."""
    app = f"app{number}"
    options = DeploymentOptions(
        name="Model", num_replicas=replicas, health_check_period_s=NEVER_S, graceful_shutdown_timeout_s=0
    )
    deployment = DeploymentSpec(
        app=app,
        name="Model",
        options=options.model_dump(mode="json"),
        code=b"x" * 2000,
        version=version,
        ingress=True,
    )
    return ApplicationSpec(name=app, route_prefix=f"/{app}", ingress="Model", deployments=[deployment])


def watch_from_elsewhere(address: str, key: str, watchers: int, pipe: Connection) -> None:
    """The second process: `watchers` connections that watch `key`. Tells when each update was there on all of them."""

    async def main() -> None:
        clients = [await RpcClient.connect(address, SECRET, timeout_s=60) for _ in range(watchers)]
        streams: list[AsyncIterator[WatchUpdate]] = [
            client.stream("watch", WatchRequest(versions={key: 0}), type=WatchUpdate).__aiter__() for client in clients
        ]

        async def until(stream: AsyncIterator[WatchUpdate], replicas: int) -> None:
            while True:
                if len(_targets(await anext(stream)).replicas) == replicas:
                    return

        loop = asyncio.get_running_loop()
        while (replicas := await loop.run_in_executor(None, pipe.recv)) is not None:
            await asyncio.gather(*(until(stream, replicas) for stream in streams))
            pipe.send(time.monotonic())
        for client in clients:
            client.close()

    asyncio.run(main())


def _targets(update: WatchUpdate) -> DeploymentTargets:
    return msgspec.msgpack.decode(update.value, type=DeploymentTargets)


@dataclass
class Figures:
    """One row. Times are milliseconds: the median of some repetitions, except for what happens once."""

    deployments: int
    replicas: int
    deploy_all_ms: float = 0.0
    look_at_one_ms: float = 0.0
    look_at_all_ms: float = 0.0
    deploy_new_ms: float = 0.0
    deploy_same_ms: float = 0.0
    replace_replica_ms: float = 0.0
    reach_watchers_ms: float = 0.0
    status_ms: float = 0.0


class Instance:
    """A controller with everything around it, and what is measured of it."""

    def __init__(self, folder: Path) -> None:
        self.engine = InstantEngine()
        self.folder = folder
        self.store = Store(folder / "state.db")
        self.controller = Controller(self.engine, folder, SECRET, self.store)

    def manager(self, number: int) -> DeploymentManager:
        manager = self.controller.applications.manager(f"app{number}", "Model")
        assert manager is not None
        return manager

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, looking again after every change of anything."""
        seen = 0
        while not condition():
            seen = await asyncio.wait_for(self.controller.changed(seen), 120)

    async def deploy(self, *specs: ApplicationSpec) -> float:
        began = time.perf_counter()
        self.controller.deploy(list(specs))
        numbers = [int(spec.name.removeprefix("app")) for spec in specs]
        managers = [self.manager(number) for number in numbers]
        await self.until(lambda: all(manager.serving == manager.num_replicas for manager in managers))
        return _ms_since(began)

    async def look_at(self, managers: list[DeploymentManager]) -> float:
        began = time.perf_counter()
        for manager in managers:
            self.controller.mark(manager)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return _ms_since(began)

    async def replace_replica(self, number: int) -> float:
        """One replica dies; until another serves in its place."""
        manager = self.manager(number)
        victim = next(iter(manager.runners))
        began = time.perf_counter()
        await self.engine.kill(f"replica:{victim}", 9)
        await self.until(lambda: victim not in manager.runners and manager.serving == manager.num_replicas)
        return _ms_since(began)

    async def reach_watchers(self, number: int) -> float:
        """Deploys one replica more and one less, again and again; until every watcher knows."""
        server = await rpc_server(self.controller).start(listen_unix(self.folder / "controller.sock"), SECRET)
        before = self.manager(number).num_replicas
        here, there = multiprocessing.Pipe()
        arguments = (str(self.folder / "controller.sock"), self.manager(number).key, WATCHERS, there)
        process = multiprocessing.get_context("spawn").Process(target=watch_from_elsewhere, args=arguments)
        process.start()
        loop = asyncio.get_running_loop()
        found: list[float] = []
        try:
            here.send(before)
            await loop.run_in_executor(None, here.recv)
            for more in itertools.islice(itertools.cycle((1, 0)), REPEATS + 1):
                here.send(before + more)
                began = time.monotonic()
                self.controller.deploy([application(number, before + more)])
                found.append(1000 * (await loop.run_in_executor(None, here.recv) - began))
            here.send(None)
        finally:
            await loop.run_in_executor(None, process.join, 10)
            if process.is_alive():
                process.kill()
            server.close()
        return statistics.median(found[1:])

    async def close(self) -> None:
        await self.controller.close()
        self.store.close()


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


async def _median(measure: Callable[[], Coroutine[Any, Any, float]], repeats: int = REPEATS) -> float:
    return statistics.median([await measure() for _ in range(repeats)])


async def measure(deployments: int, replicas: int, folder: Path, watchers: bool) -> Figures:
    instance = Instance(folder)
    controller = instance.controller
    await controller.start()
    figures = Figures(deployments, deployments * replicas)
    figures.deploy_all_ms = await instance.deploy(*(application(n, replicas) for n in range(deployments)))
    await instance.until(lambda: not any(manager.in_transition for manager in controller.applications.managers))
    gc.collect()
    everything = list(controller.applications.managers)
    figures.look_at_one_ms = await _median(lambda: instance.look_at(everything[:1]), 50)
    figures.look_at_all_ms = await _median(lambda: instance.look_at(everything))
    figures.deploy_same_ms = await _median(lambda: instance.deploy(application(0, replicas)))
    new = itertools.count(deployments)
    figures.deploy_new_ms = await _median(lambda: instance.deploy(application(next(new), 10)))
    figures.replace_replica_ms = await _median(lambda: instance.replace_replica(deployments))

    async def status() -> float:
        began = time.perf_counter()
        await controller.status()
        return _ms_since(began)

    figures.status_ms = await _median(status, 3)
    if watchers:
        # A deployment of ten replicas in every row, so that each update says as much.
        figures.reach_watchers_ms = await instance.reach_watchers(deployments)
    await instance.close()
    return figures


def table_of(rows: list[Figures]) -> Table:
    table = Table(title="The control plane, milliseconds", title_justify="left")
    columns = {
        "deployments": "deployments",
        "replicas": "replicas",
        "deploy_all_ms": "deploy\neverything",
        "look_at_all_ms": "look at\nall",
        "status_ms": "status\nof all",
        "look_at_one_ms": "look at\none deployment",
        "deploy_same_ms": "deploy one\nunchanged",
        "deploy_new_ms": "deploy one\nof 10 replicas",
        "replace_replica_ms": "replace one\ndead replica",
        "reach_watchers_ms": f"tell {WATCHERS:,}\nwatchers",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in rows:
        values = [getattr(row, name) for name in columns]
        table.add_row(*(f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" for value in values))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.control_plane", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small sizes only")
    parser.add_argument("--no-watchers", action="store_true", help="without the second process")
    options = parser.parse_args()
    logging.getLogger("headrace").setLevel(logging.ERROR)
    replica_runner.RpcClient = InstantReplica  # type: ignore[assignment,attr-defined]
    rows = []
    for deployments, replicas in QUICK_SIZES if options.quick else SIZES:
        # Not below a long path: there is a Unix socket in it.
        with tempfile.TemporaryDirectory(prefix="hr-") as folder:
            rows.append(asyncio.run(measure(deployments, replicas, Path(folder), not options.no_watchers)))
    Console(highlight=False, width=160).print(table_of(rows))


if __name__ == "__main__":
    main()
