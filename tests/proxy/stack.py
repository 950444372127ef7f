"""A proxy, a controller that only tells, and replicas, all on the test's event loop, with real sockets between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cloudpickle
import httpx
import uvicorn

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import DeploymentSpec, ReplicaSpec, ReplicaTarget, RouteEntry, RoutingTable
from headrace.engine.listeners import listen_unix
from headrace.proxy.app import ProxyApp
from headrace.proxy.main import _config, _wrapped
from headrace.proxy.protocol import close_slow_clients
from headrace.replica.lifecycle import Lifecycle
from headrace.replica.service import ReplicaService
from headrace.router.hub import ROUTES, RouterHub
from headrace.router.replica_context import set_current_replica
from headrace.wire.callee import Listener, listen
from headrace.wire.rpc import RpcService
from router.fake_controller import SECRET, FakeController
from wire.conditions import until


class Served:
    """One replica."""

    def __init__(self, name: str, service: ReplicaService, lifecycle: Lifecycle, listener: Listener, path: Path):
        self.name, self.service, self.lifecycle, self.listener, self.path = name, service, lifecycle, listener, path

    @property
    def instance(self) -> Any:
        return self.service.user_code.instance


class Stack:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.controller = FakeController(folder)
        self.app: ProxyApp
        self.replicas: dict[str, Served] = {}
        self.routes: list[RouteEntry] = []
        self.address: tuple[str, int]
        self.scheme = "http"
        self.unhandled: list[dict[str, Any]] = []
        self._server: uvicorn.Server | None = None
        self._slow: asyncio.Task[None]

    async def start(self, **http: Any) -> None:
        """Start the proxy. `http`: HTTP options."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        await self.controller.start()
        limits = {name: http.get(name) for name in ("request_timeout_s", "max_body_bytes")}
        self.app = ProxyApp(root_path=http.get("root_path") or "", **limits)
        self.app.hub = RouterHub(str(self.controller.path), SECRET, None, on_routes=self.app.set_routes)
        config = _config(_wrapped(self.app, http.get("middlewares") or []), http)
        self._server = server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.scheme = "https" if http.get("ssl_certfile") else "http"
        # Not `serve`: it would take over the signal handlers of the test run, and takes its time to end.
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        self._slow = loop.create_task(close_slow_clients(server.server_state.connections))

    async def deploy(self, target: Any, route_prefix: str = "/", name: str = "Model", **options: Any) -> Served:
        """Serve a class or function as the ingress of the application `name`."""
        loop = asyncio.get_running_loop()
        lifecycle = Lifecycle(f"{name}-0", name, name)
        service = ReplicaService(loop, name, name, RpcService(lifecycle.handlers()))
        lifecycle.service = service
        path = self.folder / f"{name}.sock"
        listener = await listen(listen_unix(path), SECRET, service)
        given = DeploymentOptions(name=name, **options).model_dump(mode="json")
        await lifecycle.initialize(
            ReplicaSpec(
                replica_id=f"{name}-0",
                deployment=DeploymentSpec(
                    app=name,
                    name=name,
                    options=given,
                    code=cloudpickle.dumps((target, (), {})),
                    version="1",
                    ingress=True,
                ),
                route_prefix=route_prefix,
            )
        )
        replica = self.replicas[name] = Served(name, service, lifecycle, listener, path)
        limit = int(given["max_ongoing_requests"])
        await self.controller.set(
            f"{name}#{name}",
            _targets(
                name, [ReplicaTarget(replica_id=f"{name}-0", address=str(path), max_ongoing_requests=limit)], given
            ),
        )
        self.routes.append(RouteEntry(app=name, route_prefix=route_prefix, ingress=name))
        await self.controller.set(ROUTES, RoutingTable(routes=self.routes))
        await until(lambda: self.app.hub.router(name, name).ready_replicas == 1)
        return replica

    def client(self, **more: Any) -> httpx.AsyncClient:
        host, port = self.address
        return httpx.AsyncClient(base_url=f"{self.scheme}://{host}:{port}", timeout=20, **more)

    @contextlib.asynccontextmanager
    async def raw(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield reader, writer
        finally:
            writer.close()

    @property
    def connections(self) -> set[Any]:
        assert self._server is not None
        return self._server.server_state.connections

    async def stop(self) -> None:
        if self._server is None:
            return
        self._slow.cancel()
        for server in self._server.servers:
            server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        state = self._server.server_state
        await until(lambda: not state.connections and not state.tasks)
        await self.app.hub.close()
        await self.controller.stop()
        for replica in self.replicas.values():
            replica.listener.close()
            for connection in list(replica.listener.connections):
                connection.abort()
            with contextlib.suppress(Exception):
                await replica.lifecycle.close()
            replica.service.worker.close()
        set_current_replica(None)
        await until(lambda: not any(replica.listener.connections for replica in self.replicas.values()))
        assert not self.unhandled, self.unhandled


def _targets(name: str, replicas: list[ReplicaTarget], options: dict[str, Any]) -> Any:
    from headrace.config.spec import DeploymentTargets

    return DeploymentTargets(
        app=name,
        deployment=name,
        replicas=replicas,
        max_ongoing_requests=int(options["max_ongoing_requests"]),
        max_queued_requests=int(options["max_queued_requests"]),
    )


async def response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One HTTP response from a raw connection."""
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(status_line.split()[1]), headers, body
