"""An engine whose processes are tasks of the test, and replicas that answer over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import signal as signals
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    ApplicationSpec,
    BuildOutcome,
    DeploymentSpec,
    DrainRequest,
    InitializeReply,
    ReconfigureRequest,
    ReplicaSpec,
    ReplicaState,
    ReplicaVitals,
)
from headrace.engine.allocator import Allocator
from headrace.engine.listeners import listen_unix
from headrace.engine.process import Activity, NodeInfo, ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.protocol import Journal
from headrace.engine.resources import Allocation, Machine, Refusal, ResourceRequest
from headrace.exceptions import StartupError
from headrace.wire.callee import Listener
from headrace.wire.rpc import RpcServer

SECRET = b"s" * 32


class FakeReplica:
    """Behaves as its code says: b"ok", b"raise", b"slow" (initializes when `release` is set), b"unhealthy",
    b"hang" (health checks never answer), b"busy" (the same, while its vitals tell of a blocked loop)."""

    def __init__(self, engine: FakeEngine, process: ProcessSpec, pid: int) -> None:
        self.engine, self.process, self.pid = engine, process, pid
        self.phase = "starting"
        self.spec: ReplicaSpec | None = None
        self.reply: InitializeReply | None = None
        self.release = asyncio.Event()
        self.initialized = 0
        self.reconfigured: list[ReconfigureRequest] = []
        self.drained: DrainRequest | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self.started_at = time.time()
        self.allocation: Allocation | None = None
        self.listeners: list[Listener] = []
        self.node = "here"

    @property
    def replica_id(self) -> str:
        return str(self.process.args["replica_id"])

    @property
    def code(self) -> bytes:
        return self.spec.deployment.code if self.spec is not None else b""

    async def serve(self) -> None:
        handlers = {
            "initialize": self.initialize,
            "state": self.state,
            "check_health": self.check_health,
            "reconfigure": self.reconfigure,
            "drain": self.drain,
        }
        assert self.process.listen is not None
        path = self.engine.session_dir / self.process.listen
        self.listeners.append(await RpcServer(handlers).start(listen_unix(path), SECRET))
        vitals = listen_unix(path.with_suffix(".vitals"))
        self.listeners.append(await RpcServer({"vitals": self.vitals}).start(vitals, SECRET))

    async def initialize(self, body: ReplicaSpec) -> InitializeReply:
        # A constructor goes on when the controller that asked for it has gone.
        return await asyncio.shield(self._construct(body))

    async def _construct(self, body: ReplicaSpec) -> InitializeReply:
        self.initialized += 1
        self.spec, self.phase = body, "initializing"
        self.engine.log.append(("initialize", self.replica_id))
        if self.code == b"slow":
            await self.release.wait()
        if self.code == b"raise":
            raise ValueError("Traceback (most recent call last):\nValueError: no such model")
        if (body.deployment.options.get("user_config") or {}) == "refuse":
            raise ValueError("user_config refused")
        self.phase = "running"
        self.reply = InitializeReply(replica_id=body.replica_id, pid=self.pid, retryable_methods=["get"])
        return self.reply

    async def state(self) -> ReplicaState:
        return ReplicaState(
            replica_id=self.replica_id,
            app=str(self.process.args["app"]),
            deployment=str(self.process.args["deployment"]),
            version=str(self.process.args["version"]),
            phase=self.phase,
            spec=self.spec,
            initialized=self.reply,
        )

    async def check_health(self) -> None:
        if self.code == b"unhealthy":
            raise RuntimeError("the model has gone bad")
        if self.code in (b"hang", b"busy"):
            await asyncio.Event().wait()

    async def vitals(self) -> ReplicaVitals:
        blocked = 60.0 if self.code == b"busy" else 0.0
        return ReplicaVitals(
            replica_id=self.replica_id, pid=self.pid, phase=self.phase, loop_blocked_s=blocked, ongoing=0
        )

    async def reconfigure(self, body: ReconfigureRequest) -> None:
        if body.options.get("user_config") == "refuse":
            raise ValueError("user_config refused")
        self.reconfigured.append(body)

    async def drain(self, body: DrainRequest) -> None:
        self.drained, self.phase = body, "draining"
        self.engine.log.append(("drain", self.replica_id))
        await self.idle.wait()


class FakeEngine:
    """Keeps every replica that it ever started in `started`; `log` tells what happened in which order."""

    journal: Journal | None = None

    def __init__(self, session_dir: Path, machine: Machine | None = None) -> None:
        self.session_dir = session_dir
        self.allocator = Allocator(machine or Machine(num_cpus=1000.0))
        self.alive: dict[str, FakeReplica] = {}
        self.started: list[FakeReplica] = []
        self.log: list[tuple[str, str]] = []
        self.ended = asyncio.Event()
        self.lacking: str | None = None
        """What nothing can be started for want of."""
        self.to_be_started: dict[str, asyncio.Future[None]] = {}
        self.on_build: Callable[[ProcessSpec], BuildOutcome | None] | None = None
        """None: the process dies."""
        self.to_go: frozenset[str] = frozenset()
        self.placed_on = "here"
        self._exits: list[ProcessExited] = []
        self._news = asyncio.Condition()
        self._pids = itertools.count(1000)

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        pid = next(self._pids)
        if spec.role == "builder":
            return await self._build(spec, pid)
        if self.lacking is not None:
            self.to_be_started[spec.name] = room = asyncio.get_running_loop().create_future()
            try:
                await room
            finally:
                del self.to_be_started[spec.name]
        replica = FakeReplica(self, spec, pid)
        replica.node = self.placed_on
        replica.allocation = self.allocator.held.get(spec.name)
        self.alive[spec.name] = replica
        self.started.append(replica)
        self.log.append(("start", replica.replica_id))
        await replica.serve()
        return self._info(replica)

    async def _build(self, spec: ProcessSpec, pid: int) -> ProcessInfo:
        assert self.on_build is not None and spec.listen is not None
        outcome = self.on_build(spec)

        async def tell() -> BuildOutcome | None:
            return outcome

        async def end() -> None:
            await self._exit(spec, pid, 0)

        path = self.session_dir / spec.listen
        if outcome is None:
            await self._exit(spec, pid, 9)
        else:
            await RpcServer({"outcome": tell, "end": end}).start(listen_unix(path), SECRET)
        return ProcessInfo(
            name=spec.name, role=spec.role, pid=pid, listen=str(path), started_at=time.time(), address=str(path)
        )

    def waiting(self, name: str) -> str | None:
        return self.lacking if name in self.to_be_started else None

    def make_room(self) -> None:
        self.lacking = None
        for room in self.to_be_started.values():
            room.set_result(None)

    async def inspect(self, name: str) -> Activity | None:
        return None

    async def leaving(self, known: frozenset[str]) -> frozenset[str]:
        async with self._news:
            await self._news.wait_for(lambda: self.to_go != known)
        return self.to_go

    async def take_away(self, *nodes: str) -> None:
        """These machines are to go."""
        async with self._news:
            self.to_go = frozenset(nodes)
            self._news.notify_all()

    async def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node="here", host="127.0.0.1", head=True)]

    async def kill(self, name: str, signal: int) -> bool:
        if name in self.to_be_started:
            self.to_be_started[name].set_exception(StartupError(f"{name} was killed before it was started"))
            return True
        replica = self.alive.pop(name, None)
        if replica is None:
            return False
        self.log.append(("kill", replica.replica_id))
        for listener in replica.listeners:
            listener.close()
        for path in (self.session_dir / str(replica.process.listen),):
            path.unlink(missing_ok=True)
        await self._exit(replica.process, replica.pid, signal)
        return True

    async def stop_proxies(self, timeout_s: float) -> None:
        """There are none."""

    async def _exit(self, process: ProcessSpec, pid: int, signal: int) -> None:
        async with self._news:
            self._exits.append(
                ProcessExited(
                    sequence=len(self._exits) + 1,
                    name=process.name,
                    role=process.role,
                    pid=pid,
                    exit_code=None if signal else 0,
                    signal=signal or None,
                )
            )
            self._news.notify_all()

    async def die(self, replica: FakeReplica) -> None:
        """What `kill -9` does."""
        await self.kill(replica.process.name, signals.SIGKILL)

    async def list(self) -> Any:
        return [self._info(replica) for replica in self.alive.values()]

    def _info(self, replica: FakeReplica) -> ProcessInfo:
        path = self.session_dir / str(replica.process.listen)
        return ProcessInfo(
            name=replica.process.name,
            role="replica",
            pid=replica.pid,
            listen=str(path),
            started_at=replica.started_at,
            args=replica.process.args,
            allocation=replica.allocation,
            node=replica.node,
            address=str(path),
            vitals=str(path.with_suffix(".vitals")),
        )

    async def exits(self, since: int) -> AsyncIterator[ProcessExited]:
        while True:
            async with self._news:
                while len(self._exits) <= since:
                    await self._news.wait()
            yield self._exits[since]
            since += 1

    async def shutdown(self) -> None:
        self.ended.set()

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        return self.allocator.allocate(name, request)

    def release(self, name: str) -> None:
        self.allocator.release(name)

    @property
    def serving(self) -> list[FakeReplica]:
        return [r for r in self.alive.values() if r.phase == "running"]

    async def close(self) -> None:
        for replica in list(self.alive.values()):
            replica.release.set()
            replica.idle.set()
            for listener in replica.listeners:
                listener.close()


def deployment(
    name: str = "Model", app: str = "app", code: bytes = b"ok", version: str = "v1", **options: Any
) -> DeploymentSpec:
    fast = {"health_check_period_s": 0.05, "health_check_timeout_s": 0.1, "graceful_shutdown_timeout_s": 2.0}
    return DeploymentSpec(
        app=app,
        name=name,
        options=DeploymentOptions(name=name, **{**fast, **options}).model_dump(mode="json"),
        code=code,
        version=version,
        ingress=True,
    )


def application(
    *deployments: DeploymentSpec, name: str = "app", route_prefix: str | None = "/", **more: Any
) -> ApplicationSpec:
    made = list(deployments) or [deployment(app=name)]
    return ApplicationSpec(name=name, route_prefix=route_prefix, ingress=made[0].name, deployments=made, **more)
