"""This machine as an engine: for who starts an instance, `launch`; for its controller, `LocalEngine`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from headrace.engine.allocator import Allocator
from headrace.engine.commands import (
    Frames,
    Inspect,
    Kill,
    ListProcesses,
    Reply,
    Shutdown,
    Start,
    StopProxies,
    Subscribe,
    frame,
)
from headrace.engine.environment import why_not_here
from headrace.engine.launch import PendingRoot as PendingRoot
from headrace.engine.launch import RootHandle as RootHandle
from headrace.engine.launch import begin_launch as begin_launch
from headrace.engine.launch import launch as launch
from headrace.engine.launch import stop_session as stop_session
from headrace.engine.machine import detect_machine
from headrace.engine.process import Activity, NodeInfo, ProcessContext, ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.protocol import NodeList, ProcessList
from headrace.engine.resources import Allocation, Machine, Refusal, ResourceRequest
from headrace.engine.root_config import RootConfig as RootConfig
from headrace.engine.session import Session
from headrace.exceptions import NotRunningError, StartupError

if TYPE_CHECKING:
    from headrace.config.instance import InstanceConfig

_T = TypeVar("_T")
_POLL_S = 0.02

_replies = msgspec.msgpack.Decoder(Reply)


class LocalEngine:
    """The controller's connection to the root of its instance. Make one with `connect`."""

    journal = None  # the session folder is there for as long as the root is

    def __init__(self, session: Session, machine: Machine) -> None:
        self._session = session
        self._root_socket = session.root_socket
        self._allocator = Allocator(machine)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._writer: asyncio.StreamWriter
        self._receiver: asyncio.Task[None]

    @classmethod
    async def connect(cls, session_dir: str | os.PathLike[str], machine: Machine | None = None) -> LocalEngine:
        """Connect to the root of the instance in `session_dir`.

        What living processes hold of the machine is taken over, so that a new controller gives out only what is left.

        Args:
            session_dir: folder of the instance.
            machine: the resources to give out; None to look at this machine.

        Raises:
            ConnectionError: there is no root.
        """
        root_socket = Path(session_dir) / "root.sock"
        try:
            engine = cls(Session.load(session_dir), machine if machine is not None else detect_machine())
            reader, engine._writer = await asyncio.open_unix_connection(root_socket)
        except (FileNotFoundError, NotRunningError) as error:
            raise ConnectionError(f"no root listens on {root_socket}") from error
        engine._receiver = asyncio.create_task(engine._receive(reader))
        for process in await engine.list():
            if process.allocation is not None:
                engine._allocator.restore(process.name, process.allocation)
        return engine

    @property
    def machine(self) -> Machine:
        """What there is to give out."""
        return self._allocator.machine

    async def start(self, spec: ProcessSpec) -> ProcessInfo:
        allocation = self._allocator.held.get(spec.name)
        if allocation is not None:
            spec = msgspec.structs.replace(spec, allocation=allocation, env={**spec.env, **allocation.env})
        return await self._call(lambda id: Start(id, spec), ProcessInfo)

    def waiting(self, name: str) -> str | None:
        return None  # what has no place on this machine is refused by `allocate`

    async def kill(self, name: str, signal: int) -> bool:
        return await self._call(lambda id: Kill(id, name, int(signal)), bool)

    async def inspect(self, name: str) -> Activity | None:
        [activity] = await self._call(lambda id: Inspect(id, name), list[Activity | None])
        return activity

    async def leaving(self, known: frozenset[str]) -> frozenset[str]:
        await asyncio.Event().wait()  # this machine stays
        return known

    async def nodes(self) -> NodeList:
        session, machine = self._session, self.machine
        resources = {"CPU": machine.num_cpus, "GPU": float(len(machine.gpus)), "memory": float(machine.memory)}
        return [
            NodeInfo(
                node=session.node,
                host="127.0.0.1",
                head=True,
                resources={name: amount for name, amount in (resources | machine.resources).items() if amount},
                labels=machine.labels,
                zone=session.zone,
                http=session.http,
            )
        ]

    async def stop_proxies(self, timeout_s: float) -> None:
        await self._call(StopProxies, type(None))
        until = asyncio.get_running_loop().time() + timeout_s
        while proxies := [process.name for process in await self.list() if process.role == "proxy"]:
            if asyncio.get_running_loop().time() >= until:
                for name in proxies:
                    await self.kill(name, signal.SIGKILL)
                return
            await asyncio.sleep(_POLL_S)

    async def shutdown(self) -> None:
        await self._call(Shutdown, type(None))

    async def exits(self, since: int) -> AsyncIterator[ProcessExited]:
        # A connection of its own: who reads slowly holds up nobody.
        reader, writer = await asyncio.open_unix_connection(self._root_socket)
        try:
            writer.write(frame(Subscribe(1, since)))
            async for reply in _read_replies(reader):
                yield msgspec.msgpack.decode(reply.value, type=ProcessExited)
        finally:
            writer.close()
        raise ConnectionError("the root of the instance is gone")

    def allocate(self, name: str, request: ResourceRequest) -> Allocation | Refusal:
        never = why_not_here(request.runtime_env)
        if never is not None:
            return Refusal(kind="never", reason=never)
        return self._allocator.allocate(name, request)

    def release(self, name: str) -> None:
        self._allocator.release(name)

    async def close(self) -> None:
        """Leave the root; the processes stay."""
        self._receiver.cancel()
        self._writer.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver

    async def _call(self, request: Any, type: type[_T]) -> _T:
        if self._receiver.done():
            raise ConnectionError("the root of the instance is gone")
        id = next(self._ids)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[id] = future
        try:
            self._writer.write(frame(request(id)))
            return msgspec.msgpack.decode(await future, type=type)
        finally:
            del self._waiting[id]

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            async for reply in _read_replies(reader):
                future = self._waiting.get(reply.id)
                if future is None or future.done():
                    continue  # who asked has stopped waiting
                if reply.error is not None:
                    future.set_exception(StartupError(reply.error))
                else:
                    future.set_result(reply.value)
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("the root of the instance is gone"))

    # Last, because inside the class it hides the built-in type.
    async def list(self) -> ProcessList:
        return await self._call(ListProcesses, ProcessList)


async def connect(process: ProcessContext, config: InstanceConfig) -> LocalEngine:
    """The engine of a controller that a root has forked."""
    machine = detect_machine(
        num_cpus=config.num_cpus, num_gpus=config.num_gpus, memory=config.memory, resources=config.resources
    )
    return await LocalEngine.connect(process.session_dir, machine)


async def _read_replies(reader: asyncio.StreamReader) -> AsyncIterator[Reply]:
    frames = Frames()
    while True:
        try:
            data = await reader.read(1 << 16)
        except ConnectionError:
            return
        if not data:
            return
        for body in frames.feed(data):
            yield _replies.decode(body)
