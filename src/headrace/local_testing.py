"""`run(app, local_testing_mode=True)`: a whole application in this process, for unit tests and debuggers.

What runs is what runs in production (router, connections, admission, the replica's way of calling user code), with one
replica of each deployment, all on one event loop in a background thread. What is missing is HTTP, processes of their
own, and with them resources, runtime environments and health checks.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import os
import pickle
import socket
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from headrace.application_graph import HandlePickler, Node, applications_in, refuse_unbound, walk
from headrace.build import what_it_is
from headrace.config.spec import DeploymentTargets, ReplicaTarget
from headrace.deployment_target import check_user_config
from headrace.deployments import Application
from headrace.exceptions import ConfigError, HeadraceError
from headrace.handle import DeploymentHandle, HandleOptions
from headrace.replica.service import ReplicaService
from headrace.replica.sync_worker import SyncWorker
from headrace.replica.user_code import UserCode
from headrace.router.context import RequestContext, request_context
from headrace.router.hub import RouterHub
from headrace.router.link import ReplicaLink
from headrace.router.replica_context import DeploymentID, ReplicaContext, ReplicaID, replica_in_this_process
from headrace.router.router import Router
from headrace.wire.callee import Listener, ServerCall, listen
from headrace.wire.rpc import RpcService

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def make_local_deployment_handle(app: Application[T], name: str = "default") -> LocalHandle[T]:
    """Runs an application in this process and returns a handle to its ingress deployment.

    All constructors have run when it returns, callees' before their callers'. Arguments that hold applications are
    copied, as they are on their way to a replica; all others reach the constructors as they are, test doubles too.

    Args:
        app: the application.
        name: its name, which `get_replica_context()` tells.

    Raises:
        ConfigError: the application cannot be deployed.
        ApplicationBuildError: deployments call each other in a circle.
        Exception: whatever a constructor or `reconfigure` raised.
    """
    if not isinstance(app, Application):
        raise ConfigError(f"an application is needed, {what_it_is(app)}")
    nodes = walk(app, _children)
    for node in nodes:
        check_user_config(node.deployment.func_or_class, node.name, node.deployment.user_config)
        _warn_of_what_is_ignored(node)
    local = LocalApplication(name, nodes)
    _applications.setdefault(name, []).append(local)
    try:
        _run(local.start())
    except BaseException:
        stop_local_applications(name)
        raise
    return local.handle(app)


def stop_local_applications(name: str | None = None) -> None:
    """Ends the applications of that name, or all, that run in this process. Their handles are of no use afterwards."""
    for known in [name] if name is not None else list(_applications):
        for local in _applications.pop(known, []):
            _run(local.close())


class LocalHandle(DeploymentHandle[T]):
    """A handle to a deployment in this process. It cannot leave the process."""

    def __init__(
        self, deployment_name: str, app_name: str, hub: LocalHub, *, _options: HandleOptions | None = None
    ) -> None:
        super().__init__(deployment_name, app_name, _options=_options)
        self._local_hub = hub

    def _with(self, options: HandleOptions) -> LocalHandle[T]:
        return LocalHandle(self.deployment_name, self.app_name, self._local_hub, _options=options)

    def _hub(self) -> RouterHub:
        if self._local_hub.closed:
            raise HeadraceError(f"the application {self.app_name!r}, which ran in this process, was shut down")
        # All that a handle uses of a hub is what ours has as well.
        return cast(RouterHub, self._local_hub)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As `DeploymentHandle.remote`."""
        hub, context = self._hub(), request_context.get()
        if threading.get_ident() == hub.thread_id:
            return self._send_here(hub, context, args, kwargs)
        return self._send_elsewhere(hub, context, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # It is pickled on its way into constructors and calls, which here lead back into this process.
        options = tuple(self._options._replace(routing_hint=None))
        return _unpickled_handle, (self._local_hub.id, self.deployment_name, self.app_name, options)


def _unpickled_handle(hub_id: str, deployment_name: str, app_name: str, options: tuple[Any, ...]) -> LocalHandle[Any]:
    hub = _hubs.get(hub_id)
    if hub is None:
        raise HeadraceError(f"a handle of local testing mode ({deployment_name!r}) cannot be used in another process")
    return LocalHandle(deployment_name, app_name, hub, _options=HandleOptions(*options))


class LocalHub:
    """The routers of an application that runs in this process; stands in for `RouterHub`."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.loop, self.thread_id = _background_loop()
        self.secret = os.urandom(32)
        self.closed = False
        self._routers: dict[str, LocalRouter] = {}
        _hubs[self.id] = self

    def router(self, app: str, deployment: str) -> LocalRouter:
        """The router to a deployment; made on first use."""
        router = self._routers.get(deployment)
        if router is None:
            router = self._routers[deployment] = LocalRouter(app, deployment, self.loop, self.secret, None)
        return router

    def close(self) -> None:
        self.closed = True
        for router in self._routers.values():
            router.close()


class LocalRouter(Router):
    """A router that says when its replica is connected."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connected = asyncio.Event()

    def joined(self, link: ReplicaLink) -> None:
        super().joined(link)
        self.connected.set()


class LocalApplication:
    """One replica of each deployment of an application, in this process."""

    def __init__(self, name: str, nodes: list[Node]) -> None:
        self.name = name
        self._nodes = nodes
        self._names = {node.application: node.name for node in nodes}
        self._hub = LocalHub()
        self._replicas: list[LocalReplica] = []

    def handle(self, application: Application[T]) -> LocalHandle[T]:
        """A handle to one of the application's deployments."""
        return LocalHandle(self._names[application], self.name, self._hub)

    async def start(self) -> None:
        for node in self._nodes:
            replica = LocalReplica(node, self.name)
            args = tuple(_with_handles(value, self.handle) for value in node.deployment.init_args)
            kwargs = {key: _with_handles(value, self.handle) for key, value in node.deployment.init_kwargs.items()}
            await replica.construct(args, kwargs)
            await replica.serve(self._hub)
            self._replicas.append(replica)

    async def close(self) -> None:
        self._hub.close()
        for replica in reversed(self._replicas):
            await replica.close()
        self._replicas.clear()


class LocalReplica:
    """The replica of one deployment: what `replica.lifecycle` makes of a process, without the process."""

    def __init__(self, node: Node, app_name: str) -> None:
        self._node = node
        self._app_name = app_name
        self._options = node.deployment.deployment_options
        self.context = ReplicaContext(ReplicaID(uuid.uuid4().hex[:8], DeploymentID(node.name, app_name)))
        self._worker: SyncWorker | None = None
        self._code: UserCode | None = None
        self._service: ReplicaService | None = None
        self._listener: Listener | None = None

    async def construct(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._worker = SyncWorker(asyncio.get_running_loop(), self._options.max_concurrent_sync)
        code = self._code = UserCode(self._node.deployment.func_or_class, args, kwargs, self._worker)
        with self._entered():
            request = request_context.set(RequestContext("", self._app_name, self._node.name))
            try:
                await code.construct()
            finally:
                request_context.reset(request)
            self.context.servable_object = code.instance
            if self._options.user_config is not None or code.wants_rank:
                await code.reconfigure(self._options.user_config)

    async def serve(self, hub: LocalHub) -> None:
        """Listen, and connect the deployment's router. The socket's name is needed no longer than that."""
        assert self._code is not None
        assert self._worker is not None
        name, options = self._node.name, self._options
        service = self._service = ReplicaService(hub.loop, self._app_name, name, RpcService({}))
        service.user_code = self._code
        service.worker = self._worker
        service.set_limits(options.max_ongoing_requests, open=True)
        router = hub.router(self._app_name, name)
        with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
            address = str(Path(folder) / "replica.sock")
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(address)
            server.listen()
            self._listener = await listen(server, hub.secret, self)
            replica = ReplicaTarget(
                replica_id=self.context.replica_tag,
                address=address,
                max_ongoing_requests=options.max_ongoing_requests,
            )
            router.update(
                DeploymentTargets(
                    app=self._app_name,
                    deployment=name,
                    replicas=[replica],
                    max_ongoing_requests=options.max_ongoing_requests,
                    max_queued_requests=options.max_queued_requests,
                    retryable_methods=self._code.retryable_methods(),
                )
            )
            await router.connected.wait()

    def request(self, call: ServerCall) -> None:
        """A call has come in: the service takes it, as this replica's."""
        assert self._service is not None
        with self._entered():
            self._service.request(call)

    def never_ran(self, call: ServerCall) -> None:
        assert self._service is not None
        self._service.never_ran(call)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        token = replica_in_this_process.set(self.context)
        try:
            yield
        finally:
            replica_in_this_process.reset(token)

    async def close(self) -> None:
        """Hang up, and let go of the user's instance: where nobody else holds it, its `__del__` runs."""
        if self._listener is not None:
            self._listener.close()
        if self._worker is not None:
            self._worker.close()
        if self._service is not None:
            self._service.user_code = None  # type: ignore[assignment]
        code, self._code = self._code, None
        if code is not None and inspect.iscoroutinefunction(getattr(type(code.instance), "__del__", None)):
            await code.close()  # the interpreter would call it, and not await it
        self.context.servable_object = None


_applications: dict[str, list[LocalApplication]] = {}
_hubs: weakref.WeakValueDictionary[str, LocalHub] = weakref.WeakValueDictionary()


@cache
def _background_loop() -> tuple[asyncio.AbstractEventLoop, int]:
    """The event loop of all local applications, in a thread that ends with the process, and the thread's id."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="headrace-local-testing", daemon=True)
    thread.start()
    assert thread.ident is not None
    return loop, thread.ident


def _run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine on the background loop and waits for it."""
    loop, thread_id = _background_loop()
    if threading.get_ident() == thread_id:
        coroutine.close()
        raise HeadraceError("local testing mode cannot be entered from code that runs in it")
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _warn_of_what_is_ignored(node: Node) -> None:
    resources = node.deployment.deployment_options.ray_actor_options
    ignored = [
        *(["num_gpus (CUDA_VISIBLE_DEVICES is not set)"] if resources.num_gpus else []),
        *(["runtime_env"] if resources.runtime_env.model_dump(exclude_defaults=True) else []),
        *(["num_replicas (there is one)"] if node.deployment.num_replicas != 1 else []),
    ]
    if ignored:
        logger.warning("deployment %r: local testing mode ignores %s", node.name, ", ".join(ignored))


# Arguments. One that holds applications is copied by pickling, which finds them anywhere. Where that cannot be done,
# for it holds a test double or a lock too, plain containers are made anew. All other arguments stay as they are.


def _children(application: Application[Any]) -> tuple[Application[Any], ...]:
    deployment = application.deployment
    refuse_unbound(deployment)
    values = (*deployment.init_args, *deployment.init_kwargs.values())
    return tuple(dict.fromkeys(found for value in values for found in _applications_in(value)))


def _applications_in(value: Any) -> list[Application[Any]]:
    try:
        return applications_in(value)
    except Exception:
        parts = value.values() if isinstance(value, dict) else value if _is_container(value) else ()
        return [found for part in parts for found in _applications_in(part)]


def _with_handles(value: Any, handle_of: Callable[[Application[Any]], LocalHandle[Any]]) -> Any:
    if not _applications_in(value):
        return value
    buffer = io.BytesIO()
    try:
        HandlePickler(buffer, handle_of).dump(value)
    except Exception:
        if isinstance(value, dict):
            return {key: _with_handles(part, handle_of) for key, part in value.items()}
        return type(value)(_with_handles(part, handle_of) for part in value)
    return pickle.loads(buffer.getvalue())


def _is_container(value: Any) -> bool:
    return type(value) in (list, tuple, set, frozenset)
