"""A process's routers, kept up to date by the controller.

One hub per process (a proxy, a replica, a driver), on one event loop. It watches the controller: routes and replica
sets are pushed as they change, and requests never wait for the controller. When the controller is gone, routing goes
on with what is known, and the hub reconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from headrace.config.spec import DeploymentTargets, RoutingTable, WatchRequest, WatchUpdate
from headrace.router.load_reporter import LoadReporter
from headrace.router.locality import Here
from headrace.router.router import Router
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import ConnectionLost, WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.router")

ROUTES = "routes"

_FIRST_RETRY_S = 0.02
_LAST_RETRY_S = 0.5

_decode_targets = msgspec.msgpack.Decoder(DeploymentTargets).decode
_decode_routes = msgspec.msgpack.Decoder(RoutingTable).decode


class RouterHub:
    """
    Args:
        controller_address: path of the controller's socket, in the session folder of this machine.
        secret: the instance's secret.
        shared: shared memory for large payloads on this machine.
        on_routes: called with every new routing table (proxies).

    Attributes:
        here: where this process runs, as the session folder beside the controller's socket says.
    """

    def __init__(
        self,
        controller_address: str,
        secret: bytes,
        shared: SharedMemory | None,
        on_routes: Callable[[RoutingTable], None] | None = None,
    ) -> None:
        self._address = controller_address
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.secret = secret
        self.shared = shared
        self.here = Here.of_session(self.session_dir)
        self.client: RpcClient | None = None
        self._on_routes = on_routes
        self._routers: dict[str, Router] = {}
        self._versions: dict[str, int] = {ROUTES: 0} if on_routes else {}
        self._connected = asyncio.Event()
        self._streams: set[asyncio.Task[None]] = set()
        self._reporter = LoadReporter(secrets.token_hex(8), self.loop, lambda: self.client)
        self._task = self.loop.create_task(self._watch())

    @property
    def session_dir(self) -> Path:
        """Folder of the instance, on this machine."""
        return Path(self._address).parent

    def router(self, app: str, deployment: str) -> Router:
        """The router to a deployment; made and subscribed to on first use."""
        router = self._routers.get(f"{app}#{deployment}")
        return router if router is not None else self.routers([(app, deployment)])[0]

    def routers(self, deployments: Iterable[tuple[str, str]]) -> list[Router]:
        """The routers to several deployments, subscribed to together."""
        found = []
        new = []
        for app, deployment in deployments:
            key = f"{app}#{deployment}"
            router = self._routers.get(key)
            if router is None:
                router = self._routers[key] = Router(app, deployment, self.loop, self.secret, self.shared, self.here)
                self._versions[key] = 0
                new.append(key)
            found.append(router)
        if new and self.client is not None:
            self._subscribe(self.client, new)
        return found

    def known_routers(self) -> Iterable[Router]:
        return self._routers.values()

    async def controller(self) -> RpcClient:
        """The connection to the controller, once there is one."""
        while self.client is None or self.client.closed:
            self._connected.clear()
            await self._connected.wait()
        return self.client

    async def _watch(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                client = await RpcClient.connect(self._address, self.secret)
            except (OSError, WireError, TimeoutError):
                await asyncio.sleep(delay_s)
                delay_s = min(_LAST_RETRY_S, 2 * delay_s)
                continue
            delay_s = _FIRST_RETRY_S
            gone = asyncio.Event()
            client.on_lost = gone.set
            self.client = client
            self._connected.set()
            if self._versions:
                self._subscribe(client, list(self._versions))
            self._reporter.begin()
            try:
                await gone.wait()
            finally:
                self.client = None
                client.close()

    def _subscribe(self, client: RpcClient, keys: list[str]) -> None:
        task = self.loop.create_task(self._follow(client, keys))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    async def _follow(self, client: RpcClient, keys: list[str]) -> None:
        """Take on what the controller tells of `keys`, for as long as the connection lasts."""
        update: WatchUpdate
        while not client.closed:
            versions = {key: self._versions[key] for key in keys}
            request = WatchRequest(versions=versions, caller=self._reporter.caller)
            try:
                async for update in client.stream("watch", request, type=WatchUpdate):
                    self._take_on(update)
            except ConnectionLost as error:
                logger.debug("the watch of %s ended: %s", keys, error)
                return
            except Exception as error:
                logger.error("the watch of %s broke off, and begins again: %s: %s", keys, type(error).__name__, error)
            await asyncio.sleep(_LAST_RETRY_S)

    def _take_on(self, update: WatchUpdate) -> None:
        if update.key == ROUTES:
            if self._on_routes is not None:
                self._on_routes(_decode_routes(update.value))
        else:
            router = self._routers[update.key]
            router.update(_decode_targets(update.value))
            self._reporter.follow(router)
        self._versions[update.key] = update.version

    async def close(self) -> None:
        self._task.cancel()
        for task in list(self._streams):
            task.cancel()
        self._reporter.close()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self.client is not None:
            self.client.close()
        for router in self._routers.values():
            router.close()
        if self.shared is not None:
            self.shared.pool.close()


_hub: RouterHub | None = None
_hub_of_parent: RouterHub | None = None


def current_hub() -> RouterHub | None:
    """This process's hub, or None where it has none (a driver that is not connected)."""
    return _hub


def set_hub(hub: RouterHub | None) -> None:
    global _hub
    _hub = hub


def known_hub() -> RouterHub | None:
    """This process's hub, or that of the process that it was forked from: both know the instance."""
    return _hub or _hub_of_parent


def _begin_anew() -> None:
    """In a forked process the hub's loop does not run, and its connections are the parent's."""
    global _hub, _hub_of_parent
    _hub, _hub_of_parent = None, known_hub()


os.register_at_fork(after_in_child=_begin_anew)
