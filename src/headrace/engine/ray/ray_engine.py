"""Ray as the controller's engine: each process is an actor, and Ray chooses its machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import ray

from headrace.engine.process import Activity, NodeInfo, ProcessContext, ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.protocol import ProcessList
from headrace.engine.ray import kv, placing, teardown
from headrace.engine.ray.agents import Agents
from headrace.engine.ray.groups import Groups
from headrace.engine.ray.health import problem_of
from headrace.engine.ray.journal import KvJournal
from headrace.engine.ray.process_actor import ProcessActor, Whereabouts
from headrace.engine.ray.records import CONTROLLER, PROCESS, SESSION, ControllerRecord, ProcessRecord, SessionRecord
from headrace.engine.ray.waits import Starting, Waits
from headrace.engine.resources import Allocation, Refusal, ResourceRequest
from headrace.exceptions import StartupError
from headrace.wire.address import gate_address

if TYPE_CHECKING:
    from headrace.config.instance import InstanceConfig

logger = logging.getLogger("headrace.controller")

T = TypeVar("T")

_REMEMBERED_EXITS = 1_000

_RAY_NOTICES_S = 1.0
"""How long Ray has to say how a process ended that is seen to be gone."""

_CRASHED = "it crashed, or was killed"


class _Starting:
    """A process that is not there yet. `began`: by the monotonic clock."""

    def __init__(self, request: ResourceRequest) -> None:
        self.request = request
        self.began = time.monotonic()
        self.task: asyncio.Task[ProcessInfo] | None = None
        self.killed = False


class _Living:
    """A process that runs: its record, the actor that it is, and the last signal that it was sent."""

    def __init__(self, record: ProcessRecord, actor: Any) -> None:
        self.record = record
        self.actor = actor
        self.sent: int | None = None


class RayEngine:
    """Make one with `connect`."""

    def __init__(self, process: ProcessContext, own_node: str, cluster: str) -> None:
        self.journal = KvJournal()
        self._secret = process.secret
        self._own_node = own_node
        self._agents = Agents(cluster, self._busy)
        self._driver: str | None = None
        self._groups = Groups()
        self._requests: dict[str, ResourceRequest] = {}
        self._starting: dict[str, _Starting] = {}
        self._living: dict[str, _Living] = {}
        self._exits: deque[ProcessExited] = deque(maxlen=_REMEMBERED_EXITS)
        self._sequence = 0
        self._exited = asyncio.Condition()
        self._waits = Waits(
            self._agents,
            starting=lambda: {
                name: Starting(each.request, self._groups.name_of(name)) for name, each in self._starting.items()
            },
            running=self._places,
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    async def begin(self) -> None:
        """Find the machines, and the processes that an earlier controller has started."""
        self._agents.controller = await asyncio.to_thread(kv.get_record, CONTROLLER, ControllerRecord)
        instance = await asyncio.to_thread(kv.get_record, SESSION, SessionRecord)
        self._driver = instance.driver.node if instance is not None and instance.driver is not None else None
        await self._agents.look()
        await self._agents.record(self._own_node)
        self._spawn(self._agents.keep())
        self._spawn(self._waits.keep())
        await asyncio.to_thread(self._find_processes)
        for name in list(self._living):
            self._spawn(self._await_end(name, self._living[name].actor.over.remote()))

    def _find_processes(self) -> None:
        actors = {each["name"]: None for each in ray.util.list_named_actors(True) if each["namespace"] == kv.NAMESPACE}
        for key in kv.keys(PROCESS):
            record = kv.get_record(key, ProcessRecord)
            if record is None:
                continue
            name = record.info.name
            try:
                actor = ray.get_actor(placing.actor_name(name), kv.NAMESPACE)
            except ValueError:
                kv.delete(key)
                continue
            actors.pop(placing.actor_name(name), None)
            self._living[name] = _Living(record, actor)
        # What was being started when the controller that wanted it ended.
        for stray in actors:
            if stray.startswith(placing.actor_name("")):
                with contextlib.suppress(ValueError):
                    ray.kill(ray.get_actor(stray, kv.NAMESPACE), no_restart=True)
        self._groups.find({name: living.record.group for name, living in self._living.items()})

    # The protocol.

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        if spec.name in self._living or spec.name in self._starting:
            raise StartupError(f"a process named '{spec.name}' runs already")
        request = self._requests.get(spec.name, ResourceRequest())
        starting = self._starting[spec.name] = _Starting(request)
        starting.task = self._spawn(self._start(spec, starting))
        return await asyncio.shield(starting.task)

    async def _start(self, spec: ProcessSpec, starting: _Starting) -> ProcessInfo:
        request, actor = starting.request, None
        if spec.name in self._requests:
            spec = msgspec.structs.replace(spec, allocation=Allocation(request=request))
        try:
            group = await self._groups.join(spec.name, request)
            options = placing.actor_options(spec, request, self._own_node, group)
            actor = await asyncio.to_thread(lambda: ray.remote(ProcessActor).options(**options).remote())
            where: Whereabouts = await actor.where.remote()
            node = await self._agents.record(where.node)
            info: ProcessInfo = await actor.open.remote(spec, node, self._secret)
            if starting.killed:
                raise StartupError(f"'{spec.name}' was killed before it was there")
            record = ProcessRecord(info=info, started=where.started, group=self._groups.name_of(spec.name))
            await asyncio.to_thread(kv.put_record, f"{PROCESS}{spec.name}", record)
            self._living[spec.name] = _Living(record, actor)
            self._spawn(self._await_end(spec.name, actor.run.remote()))
        except BaseException as error:
            if actor is not None:
                await asyncio.to_thread(ray.kill, actor, no_restart=True)
                await asyncio.to_thread(kv.delete, f"{PROCESS}{spec.name}")
            await self._groups.leave(spec.name)
            if starting.killed:
                raise StartupError(f"'{spec.name}' was killed before it was there") from None
            if isinstance(error, asyncio.CancelledError | StartupError):
                raise
            raise StartupError(_why_not_started(error)) from error
        finally:
            del self._starting[spec.name]
            self._waits.forget(spec.name)
        return info

    def _places(self) -> list[tuple[str, str]]:
        infos = (living.record.info for living in list(self._living.values()))
        return [(i.node, i.allocation.request.group) for i in infos if i.allocation is not None]

    def _busy(self) -> set[str]:
        """The machines that need their agents: of this process, of the driver, and of those that run."""
        nodes = {living.record.info.node for living in list(self._living.values())} | {self._own_node}
        return nodes if self._driver is None else nodes | {self._driver}

    def waiting(self, name: str) -> str | None:
        return self._waits.reason(name)

    async def kill(self, name: str, signal: int) -> bool:
        starting = self._starting.get(name)
        if starting is not None:
            starting.killed = True
            if starting.task is not None:
                starting.task.cancel()
            return True
        living = self._living.get(name)
        if living is None:
            return await self._kill_of_root(name, signal)
        record = living.record
        try:
            living.sent = int(signal)
            sent: bool = await self._agents.ask(record.info.node, "kill", record.info.pid, record.started, int(signal))
            return sent
        except ConnectionError:
            # Nobody there to send it. Ray ends it, and its machine if it comes back.
            await asyncio.to_thread(ray.kill, living.actor, no_restart=True)
            return name in self._living

    async def _kill_of_root(self, name: str, number: int) -> bool:
        """A proxy is called `<its name with its root>@<node>`."""
        own, _, node = name.rpartition("@")
        if not own:
            return False
        try:
            return bool(await self._agents.ask(node, "kill_process", own, int(number)))
        except ConnectionError:
            return False

    async def inspect(self, name: str) -> Activity | None:
        living = self._living.get(name)
        if living is None:
            return None
        info = living.record.info
        try:
            activity: Activity | None = await self._agents.ask(info.node, "inspect", info.pid, living.record.started)
            return activity
        except ConnectionError:
            return None

    async def nodes(self) -> list[NodeInfo]:
        return self._agents.nodes()

    async def leaving(self, known: frozenset[str]) -> frozenset[str]:
        return await self._agents.leaving(known)

    async def health(self, part: str) -> str | None:
        """What is wrong with a part of Ray, "gcs" or "raylet"; None for nothing. The REST API tells probes."""
        return await asyncio.to_thread(problem_of, part, self._own_node)

    async def stop_proxies(self, timeout_s: float) -> None:
        await self._agents.ask_all("stop_proxies", timeout_s, timeout_s=timeout_s + 5.0)

    async def shutdown(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._agents.close()
        # Ends this process too, as its last act.
        asyncio.get_running_loop().run_in_executor(None, teardown.tear_down)

    async def exits(self, since: int) -> AsyncIterator[ProcessExited]:
        while True:
            news = [exited for exited in self._exits if exited.sequence > since]
            for exited in news:
                since = exited.sequence
                yield exited
            async with self._exited:
                while self._sequence <= since:
                    await self._exited.wait()

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        self._requests[name] = request
        return Allocation(request=request)

    def release(self, name: str) -> None:
        self._requests.pop(name, None)

    # Ends.

    async def _await_end(self, name: str, end: Any) -> None:
        """Wait until a process has ended, and see to what it leaves."""
        record = self._living[name].record
        status, reason = await self._end_of(record, end)
        living = self._living.pop(name)
        info = living.record.info
        self._sequence += 1
        self._exits.append(
            ProcessExited(
                sequence=self._sequence,
                name=name,
                role=info.role,
                pid=info.pid,
                exit_code=status,
                signal=living.sent if status is None else None,
                reason=reason,
            )
        )
        async with self._exited:
            self._exited.notify_all()
        # After that: a machine that is gone does not answer for a while.
        await asyncio.to_thread(ray.kill, living.actor, no_restart=True)
        await self._groups.leave(name)
        await asyncio.to_thread(kv.delete, f"{PROCESS}{name}")
        with contextlib.suppress(ConnectionError):
            await self._agents.ask(info.node, "clean_up_after", info.pid, info.listen)

    async def _end_of(self, record: ProcessRecord, end: Any) -> tuple[int | None, str]:
        """The status that a process ended with, or None and why.

        Ray sees a process end by its connections, and whatever user code has forked holds copies of them. The machine's
        agent sees the process itself.
        """
        info = record.info
        told = asyncio.ensure_future(_outcome(end))
        seen = asyncio.ensure_future(self._agents.ended(info.node, info.pid, record.started))
        try:
            await asyncio.wait((told, seen), return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(told), _RAY_NOTICES_S)
            return None, _CRASHED
        finally:
            told.cancel()
            seen.cancel()

    def _spawn(self, doing: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, StartupError):
            logger.error("the engine's internal error", exc_info=error)

    # Last, because inside the class it hides the built-in type.
    async def list(self) -> ProcessList:
        of_roots = await self._agents.processes()
        proxies = [
            msgspec.structs.replace(process, name=f"{process.name}@{node}", vitals=self._vitals(node, process.name))
            for node, processes in of_roots.items()
            for process in processes
            if process.role == "proxy"
        ]
        return [*(living.record.info for living in self._living.values()), *proxies]

    def _vitals(self, node: str, proxy: str) -> str:
        record = self._agents.records.get(node)
        return gate_address(*record.gate, f"{proxy}.vitals") if record is not None and record.gate is not None else ""


async def connect(process: ProcessContext, config: InstanceConfig) -> RayEngine:
    """The engine of a controller that is an actor of the cluster."""
    context = ray.get_runtime_context()
    engine = RayEngine(process, context.get_node_id(), context.gcs_address)
    await engine.begin()
    return engine


def _why_not_started(error: BaseException) -> str:
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, StartupError):
        return str(error.cause)
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return f"its runtime environment cannot be made: {error}"
    return f"Ray cannot start it: {error}"


async def _outcome(end: Any) -> tuple[int | None, str]:
    try:
        return await end, ""
    except ray.exceptions.RayError as error:
        return None, _how_it_ended(error)


_DETAIL = "Worker exit detail: "


def _how_it_ended(error: Exception) -> str:
    """What Ray says of the end of a process, in one line."""
    text = str(error)
    for mark in (_DETAIL, "The actor is dead because "):
        if mark in text:
            text = text[text.index(mark) + len(mark) :]
            break
    if "connection error code 2" in text:
        return _CRASHED
    first = text.strip().partition("\n")[0].partition(" Some common causes")[0]
    return first or type(error).__name__
