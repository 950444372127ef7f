"""This process's connection to an instance: found, or started for it.

A driver (a script, a notebook, the command line) has a background thread with an event loop; its handles' routers and
its calls to the controller live there. The first use connects to the instance that `HEADRACE_ADDRESS` names or
`headrace start` made, or else starts one: on this machine, which ends with this process, or on the Ray cluster that
this process is connected to.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from headrace.config.spec import (
    ApplicationHistory,
    ApplicationSpec,
    ChangedRequest,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    HistoryRequest,
    InstanceStatus,
    RollbackReply,
    RollbackRequest,
    StatusRequest,
)
from headrace.exceptions import ConfigError, DeploymentFailedError, HeadraceError, NotRunningError, StartupError
from headrace.router.hub import RouterHub, current_hub, known_hub, set_hub
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import ConnectionLost, RpcError
from headrace.wire.rpc import RpcClient
from headrace.wire.shm import shared_folder

T = TypeVar("T")

CONNECT_TIMEOUT_S = 30.0
SHUTDOWN_TIMEOUT_S = 60.0
_LOOK_EVERY_S = 0.25
_FOR_EVER_S = 24 * 3600.0
"""Should the instance end, that is noticed without a timeout."""


class Client:
    """A driver's connection to one instance.

    Args:
        session: the instance.
        root: the instance as this process's own, where it ends with this process.
    """

    def __init__(self, session: Any, root: Any | None) -> None:
        self.session = session
        self.root = root
        self._loop: asyncio.AbstractEventLoop
        ready: concurrent.futures.Future[RouterHub] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="headrace-client", daemon=True)
        self._thread.start()
        self.hub = ready.result(CONNECT_TIMEOUT_S)
        if current_hub() is None:  # in a replica, handles have one already
            set_hub(self.hub)

    @property
    def owned(self) -> bool:
        """Whether the instance ends with this process."""
        return self.root is not None

    @property
    def alive(self) -> bool:
        return bool(self.root.alive if self.root is not None else self.session.alive)

    @property
    def http_url(self) -> str | None:
        """Where applications answer, without a path; None without HTTP."""
        if self.session.http is None:
            return None
        host, port = self.session.http
        scheme = "https" if (self.config["http"] or {}).get("ssl_certfile") else "http"
        return f"{scheme}://{_for_url(host)}:{port}"

    @property
    def rest_url(self) -> str:
        host, port = self.session.rest
        return f"http://{_for_url(host)}:{port}"

    def _serve(self, ready: concurrent.futures.Future[RouterHub]) -> None:
        try:
            import uvloop

            self._loop = uvloop.new_event_loop()
        except ImportError:
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)

        async def start() -> RouterHub:
            folder = shared_folder(self.session.dir.name)
            shared = SharedMemory(folder) if folder is not None else None
            return RouterHub(str(self.session.dir / "controller.sock"), self.session.secret, shared)

        try:
            ready.set_result(self._loop.run_until_complete(start()))
        except Exception as error:
            ready.set_exception(error)
            return
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the background loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except (concurrent.futures.TimeoutError, KeyboardInterrupt):
            future.cancel()
            raise

    def call(self, method: str, body: Any = None, type: type[T] | Any = Any, timeout_s: float = CONNECT_TIMEOUT_S) -> T:
        """Call the controller. While it is being restarted, wait for it.

        Raises:
            ConfigError: it refuses what was asked.
            NotRunningError: the instance has ended.
        """

        async def attempt() -> T:
            async with asyncio.timeout(timeout_s):
                while True:
                    controller = await self._controller()
                    try:
                        return await controller.call(method, body, type=type)
                    except ConnectionLost:
                        continue

        try:
            return self.run(attempt())
        except RpcError as error:
            raise (ConfigError if error.kind == "ConfigError" else HeadraceError)(error.message) from None
        except TimeoutError:
            what = "has ended" if not self.alive else f"did not answer within {timeout_s:g} s"
            raise NotRunningError(f"the Headrace instance in {self.session.dir} {what}") from None

    async def _controller(self) -> RpcClient:
        """The connection to the controller. There is none while another one starts, and none any more when the instance
        has ended."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    return await self.hub.controller()
            except TimeoutError:
                if not self.alive:
                    raise NotRunningError("the Headrace instance has ended") from None
                if (why := self.session.controller_error) is not None:
                    raise StartupError(f"the controller of the Headrace instance cannot start: {why}") from None

    def deploy(self, applications: list[ApplicationSpec], replace_all: bool = False) -> None:
        self.call("deploy", DeployRequest(applications=applications, replace_all=replace_all), DeployReply)

    def delete(self, names: list[str]) -> None:
        self.call("delete", DeleteRequest(names=names))

    def history(self, name: str) -> ApplicationHistory:
        return self.call("history", HistoryRequest(app=name), ApplicationHistory)

    def rollback(self, name: str, to: int | None = None) -> RollbackReply:
        if to is None:
            # With a number: should the controller end after it has done this and before it has answered, being asked
            # again must not go back twice.
            to = self.history(name).rollback_to
        return self.call("rollback", RollbackRequest(app=name, to=to), RollbackReply)

    def status(self) -> InstanceStatus:
        return self.call("status", type=InstanceStatus)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """What the instance was started with: an InstanceConfig, dumped."""
        config: dict[str, Any] = self.call("config", type=dict)
        return config

    def wait_until(self, settled: Callable[[InstanceStatus], bool], names: list[str] | None = None) -> InstanceStatus:
        """Wait until the instance's status is as wanted; looks again whenever an application's status changes.

        Args:
            settled: says whether it is.
            names: the applications that it wants to know of; None for all.

        Raises:
            NotRunningError: the instance has ended.
        """
        seen = 0
        while True:
            seen = self.call("changed", ChangedRequest(since=seen), type=int, timeout_s=_FOR_EVER_S)
            began = time.monotonic()
            method, body = ("status", None) if names is None else ("status_of", StatusRequest(names=names))
            status: InstanceStatus = self.call(method, body, type=InstanceStatus, timeout_s=_FOR_EVER_S)
            if settled(status):
                return status
            # A controller of a thousand deployments has better to do than to tell of each of their steps.
            threading.Event().wait(time.monotonic() - began)

    def wait_running(self, names: list[str]) -> InstanceStatus:
        """Wait until all of these applications run.

        Raises:
            DeploymentFailedError: one of them cannot; the message says why.
        """

        def settled(status: InstanceStatus) -> bool:
            by_name = {application.name: application for application in status.applications}
            for name in names:
                application = by_name.get(name)
                if application is None:
                    raise DeploymentFailedError(f"application {name!r} was deleted while it was being deployed")
                if application.status == "DEPLOY_FAILED":
                    raise DeploymentFailedError(f"application {name!r} failed to deploy: {application.message}")
            return all(by_name[name].status == "RUNNING" for name in names)

        return self.wait_until(settled, names)

    def shutdown(self) -> None:
        """End the instance, after what is in flight has been answered, and this connection."""
        with contextlib.suppress(HeadraceError, ConnectionLost):
            self.call("shutdown", timeout_s=SHUTDOWN_TIMEOUT_S)
        if self.root is not None:
            self.root.stop()
        else:
            from headrace.engine.launch import end_instance

            end_instance(self.session)
        self.disconnect()

    def disconnect(self) -> None:
        """Let go of the instance, whatever becomes of it."""
        global _client
        if _client is self:
            _client = None
        if current_hub() is self.hub:
            set_hub(None)
        with contextlib.suppress(Exception):
            self.run(self.hub.close(), 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


def _for_url(host: str) -> str:
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"[{host}]" if ":" in host else host


_client: Client | None = None
_lock = threading.RLock()


def connected() -> Client | None:
    """The living connection of this process, if it has one."""
    global _client
    if _client is not None and not _client.alive:
        _client.disconnect()
        _client = None
    return _client


def _begin_anew() -> None:
    """In a forked process the connection is the parent's, and another thread may have held the lock."""
    global _client, _lock
    _client, _lock = None, threading.RLock()


os.register_at_fork(after_in_child=_begin_anew)


def find(engine: str | None = None, address: str | None = None) -> Client:
    """The connection of this process: the one that it has, or one to the instance that serves without a driver.

    Args:
        engine, address: where, as in `headrace.start`.

    Raises:
        NotRunningError: there is none.
    """
    client = _find(engine, address)
    if client is None:
        raise NotRunningError("no Headrace instance is running; serve.run(app) starts one, as does `headrace start`")
    return client


def _find(engine: str | None = None, address: str | None = None) -> Client | None:
    global _client
    with _lock:
        client = connected()
        if client is None:
            session = _session(engine, address)
            if session is None:
                return None
            client = _client = Client(session, None)
            atexit.register(_disconnect_at_exit, client)
        return client


def _session(engine: str | None, address: str | None) -> Any | None:
    """The instance that this process belongs to, or that is meant when none is named."""
    from headrace.engine.session import Session
    from headrace.engine.starting import find_instance

    hub = known_hub()
    if hub is not None:
        with contextlib.suppress(NotRunningError):
            own = Session.load(hub.session_dir)
            if own.alive:
                return own
    return find_instance(engine, address)


class Beginning:
    """An instance that is being found or started while this process does something else.

    Args:
        instance: an InstanceConfig for it, should one be started; None for defaults.
        options: of `engine.starting.begin_instance`.
    """

    def __init__(self, instance: Any | None = None, **options: Any) -> None:
        self._pending: Any = None
        with _lock:
            self._found = _find(options.get("engine"), options.get("address"))
            if self._found is None:
                from headrace.config.instance import InstanceConfig
                from headrace.engine.starting import begin_instance

                self._pending = begin_instance(instance if instance is not None else InstanceConfig(), **options)

    @property
    def found(self) -> bool:
        """Whether there was one already."""
        return self._found is not None

    def finish(self) -> Client:
        """The connection of this process.

        Raises:
            StartupError: the instance cannot start.
        """
        global _client
        with _lock:
            if self._found is not None:
                return self._found
            session, handle = self._pending.wait()
            client = _client = Client(session, handle)
            atexit.register(_shutdown_at_exit if client.owned else _disconnect_at_exit, client)
            return client

    def give_up(self) -> None:
        """End the instance again, if one was being started."""
        if self._pending is not None:
            self._pending.give_up()


def _shutdown_at_exit(client: Client) -> None:
    if client.owned and _client is client:  # in a forked process it is another one, or none
        client.shutdown()


def _disconnect_at_exit(client: Client) -> None:
    """The instance goes on: the shared memory that this process has lent must not stay with it."""
    if _client is client:
        client.disconnect()


def machine_gpus() -> int:
    """How many GPUs an instance has to give to replicas: those of this machine, or, if it has none, those of the
    machines of the instance that is found from here.

    Raises:
        StartupError: `$HEADRACE_NUM_GPUS` is not a number.
    """
    from headrace.engine.machine import detect_machine

    here = len(detect_machine().gpus)
    if here == 0:
        # Who describes an application for a cluster is often on a machine of it that has none.
        with contextlib.suppress(HeadraceError, OSError):
            nodes = find().status().nodes
            return int(sum(node.resources.get("GPU", 0) for node in nodes if node.alive))
    return here


def hub_for_handles() -> RouterHub:
    """How a handle in a process that is no replica finds its hub."""
    return find().hub
