"""The Ray actor that keeps an instance's root alive on one machine, and does there what only that machine can do.

The root is its child, and may outlive it: should Ray start the agent again, it takes over the root that it finds. The
root ends by itself when Ray ends on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import stat
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import psutil

from headrace.engine import orphans, session
from headrace.engine.activity import activity_of
from headrace.engine.launch import launch, stop_session
from headrace.engine.local import LocalEngine
from headrace.engine.machine import detect_machine
from headrace.engine.process import Activity, ProcessInfo
from headrace.engine.ray import kv, pids
from headrace.engine.ray.records import ENDING, NODE, SESSION, ControllerRecord, NodeRecord, SessionRecord
from headrace.engine.restarts import Restarts
from headrace.engine.root_config import RootConfig
from headrace.engine.session import CONTROLLER_ADDRESS, CONTROLLER_ERROR, Session
from headrace.exceptions import StartupError

logger = logging.getLogger("headrace.agent")

GATE_ENTRY = "headrace.engine.ray.gate:main"
ROOT_STOP_S = 10.0


class Surroundings(msgspec.Struct, kw_only=True, frozen=True):
    """What an agent is told of its machine.

    Attributes:
        node: Ray's id of it.
        host: its address in the cluster.
        cluster: address of the cluster.
        head: the cluster depends on it.
        shares_host: other machines of the cluster are in truth the same one, so that ports must differ.
    """

    node: str
    host: str
    cluster: str
    zone: str = ""
    head: bool = False
    shares_host: bool = False


class NodeAgent:
    """
    Args:
        surroundings: of this machine.
    """

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._session: SessionRecord | None = None
        self._record: NodeRecord | None = None
        self._locks: list[int] = []
        self._lock = asyncio.Lock()
        self._raylet: _Raylet | None = None
        self._restarts = Restarts()
        self._began = 0.0
        self._not_before = 0.0
        self._watches_driver = False
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def tend(self, controller: ControllerRecord | None = None) -> NodeRecord:
        """See to it that there is a root, and that clients here find the controller. Called time and again.

        Returns:
            The machine's addresses, or why it has none.
        """
        async with self._lock:
            if self._record is None or (self._record.error is not None and time.monotonic() >= self._not_before):
                await self._begin()
            assert self._record is not None
            if controller is not None and self._record.error is None:
                self._tell_of_controller(controller)
            return self._record

    async def kill(self, pid: int, started: int, number: int) -> bool:
        """Send a signal to a process of an actor; False if it has ended."""
        return pids.send_signal(pid, started, number)

    async def inspect(self, pid: int, started: int) -> Activity | None:
        """What the system tells of a process; None if it has ended."""
        return activity_of(pid) if pids.is_same(pid, started) else None

    async def ended(self, pid: int, started: int) -> None:
        """Return when a process has ended."""
        if pids.is_same(pid, started):
            over = asyncio.Event()

            async def note() -> None:
                over.set()

            self._when_ended(pid, note)
            await over.wait()

    async def processes(self) -> list[ProcessInfo]:
        """What the root has started: the gate and the proxies."""
        engine = await self._root()
        if engine is None:
            return []
        try:
            return await engine.list()
        except (ConnectionError, StartupError):
            return []
        finally:
            await engine.close()

    async def kill_process(self, name: str, number: int) -> bool:
        """Send a signal to what the root has started."""
        engine = await self._root()
        if engine is None:
            return False
        try:
            return await engine.kill(name, number)
        except ConnectionError:
            return False
        finally:
            await engine.close()

    async def stop_proxies(self, timeout_s: float) -> None:
        """Accept no more HTTP here. Returns when what had been begun is answered, or `timeout_s` has passed."""
        engine = await self._root()
        if engine is None:
            return
        try:
            with contextlib.suppress(ConnectionError):
                await engine.stop_proxies(timeout_s)
        finally:
            await engine.close()

    async def clean_up_after(self, pid: int, socket: str | None) -> None:
        """Remove what the process of an actor has left, and end what its user code had started."""
        folder = self._folder()
        if folder is None:
            return
        await asyncio.to_thread(orphans.end_of_processes, folder.name, [pid])
        session.remove_buffers(folder, pid)
        if socket is None:
            return
        for path in folder.glob(f"{Path(socket).stem}.*"):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    path.unlink()

    async def end(self) -> None:
        """End the root and everything under it, and remove all files."""
        self._ending = True
        async with self._lock:
            folder = self._folder()
            if folder is None:  # this agent has just been started again, or there was never a root
                record = kv.get_record(f"{NODE}{self._surroundings.node}", NodeRecord)
                if record is None:
                    return
                folder = Path(record.session_dir)
            with contextlib.suppress(Exception):
                await asyncio.to_thread(stop_session, Session.load(folder), ROOT_STOP_S)
            await asyncio.to_thread(orphans.end_of_session, folder.name)
            session.remove(folder)
            for lock in self._locks:
                os.close(lock)
            self._locks.clear()
            kv.delete(f"{NODE}{self._surroundings.node}")

    # The root.

    def _folder(self) -> Path | None:
        return Path(self._record.session_dir) if self._record is not None and self._record.session_dir else None

    async def _root(self) -> LocalEngine | None:
        folder = self._folder()
        if folder is None:
            return None
        try:
            return await LocalEngine.connect(folder, detect_machine(num_gpus=0))
        except (ConnectionError, OSError):
            return None

    async def _begin(self) -> None:
        """Take over the root that there is, or start one."""
        own = self._surroundings
        try:
            if self._ending or kv.get(ENDING) is not None:
                raise StartupError("the instance is being ended")
            if self._raylet is None:
                self._raylet = _Raylet()
            if self._raylet.ended:
                # This agent is about to end too: a root that it started would outlive it.
                raise StartupError("Ray has ended on this machine")
            self._session = kv.get_record(SESSION, SessionRecord)
            if self._session is None:
                raise StartupError("there is no instance on this cluster (any more)")
            self._record = await asyncio.to_thread(self._adopt_or_launch, self._session)
        except (StartupError, OSError) as error:
            self._record = NodeRecord(node=own.node, host=own.host, zone=own.zone, error=str(error))
            self._not_before = time.monotonic() + self._restarts.delay_after(0.0)
            return
        self._began = time.monotonic()
        kv.put_record(f"{NODE}{own.node}", self._record)
        self._watch(self._record.root_pid)
        self._watch_driver(self._session)

    def _adopt_or_launch(self, instance: SessionRecord) -> NodeRecord:
        own = self._surroundings
        sessions = Path(instance.sessions_dir) if instance.sessions_dir else session.sessions_dir()
        folder = sessions / instance.folder_name(own.node)
        if not self._locks:
            self._locks = session.keep(folder)
        if instance.rest_token is not None:
            session.write_private(folder / "rest_token", instance.rest_token.encode())
        if session.root_lives(folder):
            found = Session.load(folder)
        else:
            before = kv.get_record(f"{NODE}{own.node}", NodeRecord)
            # Ray ends the children of an actor with it, and the root outlives this one.
            found = launch(self._root_config(instance, folder, before), orphan=True).session
        return NodeRecord(
            node=own.node,
            host=own.host,
            zone=own.zone,
            session_dir=str(folder),
            gate=found.gate,
            http=found.http,
            rest=found.rest,
            root_pid=found.root_pid,
        )

    def _root_config(self, instance: SessionRecord, folder: Path, before: NodeRecord | None) -> RootConfig:
        """`before`: what an earlier root listened on, as others know it."""
        own, options = self._surroundings, instance.instance
        http: dict[str, Any] | None = options.get("http")
        if options.get("proxy_location") == "HeadOnly" and not own.head:
            http = None
        rest: dict[str, Any] = options["rest"]
        assert self._raylet is not None
        return RootConfig(
            session_dir=str(folder),
            secret=instance.secret.hex(),
            keep=True,
            driver_pid=self._raylet.pid,
            http_host=http["host"] if http is not None else None,
            http_port=_port(before.http if before is not None else None, http["port"] if http is not None else 0),
            http_port_fallback=own.shares_host,
            num_proxies=http["num_proxies"] if http is not None else 0,
            rest_host=rest["host"],
            rest_port=_port(before.rest if before is not None else None, rest["port"]),
            rest_port_fallback=instance.rest_port_fallback or own.shares_host,
            gate_host=own.host,
            gate_port=_port(before.gate if before is not None else None, 0),
            instance=options,
            detached=True,
            engine="ray",
            node=own.node,
            zone=own.zone,
            cluster=own.cluster,
            controller_entry=GATE_ENTRY,
            warm=("headrace.proxy.main",),
            sys_path=instance.sys_path,
        )

    def _watch(self, root_pid: int) -> None:
        self._when_ended(root_pid, self._replace_root)

    def _when_ended(self, pid: int, then: Any) -> None:
        """Run the coroutine function `then` when a process has ended."""
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._spawn(then())
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._spawn(then())

        loop.add_reader(descriptor, ended)

    async def _replace_root(self) -> None:
        async with self._lock:
            if self._ending or self._record is None:
                return
            logger.warning("the root of the machine (pid %d) has ended; starting another", self._record.root_pid)
            self._record = None
            await asyncio.sleep(self._restarts.delay_after(time.monotonic() - self._began))
            await self._begin()

    # The driver.

    def _watch_driver(self, instance: SessionRecord) -> None:
        """An instance that has a driver ends with it, and this machine is the one to notice."""
        driver = instance.driver
        if driver is None or driver.node != self._surroundings.node or self._watches_driver:
            return
        self._watches_driver = True
        if not pids.is_same(driver.pid, driver.started):
            self._spawn(self._end_instance())
        else:
            self._when_ended(driver.pid, self._end_instance)

    async def _end_instance(self) -> None:
        from headrace.engine.ray.teardown import tear_down

        if not self._ending:
            await asyncio.to_thread(tear_down)

    def _tell_of_controller(self, controller: ControllerRecord) -> None:
        folder = self._folder()
        assert folder is not None
        with contextlib.suppress(OSError):
            if controller.address:
                _write(folder / CONTROLLER_ADDRESS, controller.address)
            if controller.error is not None:
                _write(folder / CONTROLLER_ERROR, controller.error)
            else:
                (folder / CONTROLLER_ERROR).unlink(missing_ok=True)

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _port(before: tuple[str, int] | None, wanted: int) -> int:
    return before[1] if before is not None else wanted


class _Raylet:
    """The process of Ray that a machine's part of an instance ends with."""

    def __init__(self) -> None:
        raylets = [parent.pid for parent in psutil.Process().parents() if parent.name() == "raylet"]
        self.pid = raylets[0] if raylets else os.getppid()
        self._descriptor = os.pidfd_open(self.pid)

    @property
    def ended(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])


def _write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            return
    session.write_private(path, text.encode())
