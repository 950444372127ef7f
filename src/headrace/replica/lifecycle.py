"""What the controller asks of a replica: begin, reconfigure, tell, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import msgspec

from headrace.config.spec import (
    DrainRequest,
    InitializeReply,
    ReconfigureRequest,
    ReplicaSpec,
    ReplicaState,
)
from headrace.exceptions import HeadraceError
from headrace.observe.logs import ProcessLog
from headrace.replica.autoscaling_stats import StatsReporter
from headrace.replica.deployed_sources import import_as_deployed
from headrace.replica.http.asgi import LifespanRunner, build_asgi_app
from headrace.replica.http.plan import plan_handler
from headrace.replica.http_service import HttpService
from headrace.replica.service import ReplicaService
from headrace.replica.sync_worker import SyncWorker
from headrace.replica.user_code import UserCode
from headrace.replica.user_traceback import user_traceback
from headrace.router.context import RequestContext, request_context
from headrace.router.ingress_app import ingress_app_of
from headrace.router.loaded_models import loaded_model_ids, unload_all
from headrace.router.replica_context import (
    DeploymentID,
    GangContext,
    ReplicaContext,
    ReplicaID,
    ReplicaRank,
    current_replica,
    set_current_replica,
)
from headrace.wire.callee import Listener
from headrace.wire.rpc import Handler

logger = logging.getLogger("headrace.replica")

_FAREWELL_S = 1.0
"""How long callers have to hang up; one that is stopped in a debugger must not hold up an update."""


class ConstructorError(HeadraceError):
    """The user's constructor, or `reconfigure`, raised; the message is its traceback."""


class Lifecycle:
    """One replica's life. Its methods are control calls; see `config/spec.py` for what goes in and out.

    `on_constructed` is called when there is an instance of the user's, which has to be let go in the end, `on_failure`
    when user code says that it can serve no more. `stats` tells the controller what the user's code says of itself.
    """

    def __init__(
        self,
        replica_id: str,
        app: str,
        deployment: str,
        on_constructed: Callable[[], None] = lambda: None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.replica_id = replica_id
        self.phase = "starting"
        self.service: ReplicaService = None  # type: ignore[assignment]
        self.listener: Listener | None = None
        self.stats: StatsReporter | None = None
        self.configure_logging: Callable[[dict[str, Any]], ProcessLog | None] = lambda config: None
        self._on_constructed = on_constructed
        self._on_failure = on_failure
        self._app = app
        self._deployment = deployment
        self._spec: ReplicaSpec | None = None
        self._context: ReplicaContext | None = None
        self._error: str | None = None
        self._user_code: UserCode | None = None
        self._lifespan: LifespanRunner | None = None
        self._initialized: asyncio.Task[InitializeReply] | None = None
        self._reply: InitializeReply | None = None
        self._idle = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        return {
            "initialize": self.initialize,
            "reconfigure": self.reconfigure,
            "check_health": self.check_health,
            "state": self.state,
            "drain": self.drain,
        }

    @property
    def ongoing(self) -> int:
        return self.service.ongoing if self.service is not None else 0

    async def initialize(self, spec: ReplicaSpec) -> InitializeReply:
        """Run the user's constructor and open for requests. Asked twice (by a controller that restarted meanwhile),
        both get the same answer."""
        if self._initialized is None:
            # A task of its own: the constructor goes on when the controller that asked for it is gone.
            self._initialized = asyncio.create_task(self._begin(spec))
        return await asyncio.shield(self._initialized)

    async def _begin(self, spec: ReplicaSpec) -> InitializeReply:
        try:
            self._reply = await self._initialize(spec)
        except (Exception, SystemExit) as error:  # scripts that became constructors call sys.exit
            self.phase = "failed"
            self._error = user_traceback(error)
            raise ConstructorError(self._error) from None
        return self._reply

    async def _initialize(self, spec: ReplicaSpec) -> InitializeReply:
        self.phase = "initializing"
        self._spec = spec
        options = spec.deployment.options
        if options.get("logging_config"):
            self.service.log_calls(self.configure_logging(options["logging_config"]))
        for path in spec.runtime_env.get("sys_path", []):
            if path not in sys.path:
                sys.path.append(path)
        if "" not in sys.path:
            sys.path.insert(0, "")  # the working directory, as for a script started there
        loop = asyncio.get_running_loop()
        context = ReplicaContext(
            ReplicaID(self.replica_id, DeploymentID(self._deployment, self._app)),
            rank=ReplicaRank(spec.rank, spec.node_rank, spec.local_rank),
            world_size=spec.world_size,
            gang_context=GangContext(**msgspec.structs.asdict(spec.gang)) if spec.gang is not None else None,
            _end=self._on_failure,
        )
        self._context = context
        set_current_replica(context)
        import_as_deployed(spec.deployment.sources)
        target, args, kwargs = cloudpickle.loads(spec.deployment.code)
        worker = SyncWorker(loop, int(options.get("max_concurrent_sync") or 1))
        code = self._user_code = UserCode(target, args, kwargs, worker)
        request_context.set(RequestContext("", self._app, self._deployment))
        try:
            await code.construct()
        finally:
            request_context.set(None)
        context.servable_object = code.instance
        self._on_constructed()
        service = self.service
        service.user_code = code
        service.worker = worker
        if ingress_app_of(code.instance) is not None:
            self._lifespan = LifespanRunner(await build_asgi_app(code.instance))
            await self._lifespan.startup()
        service.make_http = lambda: self._make_http(spec, code)
        if spec.deployment.ingress:
            service.http = service.make_http()
        if options.get("user_config") is not None or code.wants_rank:
            await code.reconfigure(options.get("user_config"))
        await code.check_health()
        self._warn_of_small_batches(int(options["max_ongoing_requests"]))
        self.phase = "running"
        service.set_limits(int(options["max_ongoing_requests"]), open=True)
        if self.stats is not None:
            self.stats.follow(code, options)
        return InitializeReply(
            replica_id=self.replica_id,
            pid=os.getpid(),
            has_check_health=code.has_check_health,
            has_reconfigure=code.has_reconfigure,
            retryable_methods=code.retryable_methods(),
        )

    def _make_http(self, spec: ReplicaSpec, code: UserCode) -> HttpService:
        if self._lifespan is not None or not callable(code.instance):
            return HttpService(self.service, None, None, self._lifespan, spec.max_body_bytes)
        method = code.method("__call__")
        plan = plan_handler(method.function, owner=f"{self._deployment}.__call__")
        return HttpService(self.service, method, plan, None, spec.max_body_bytes)

    async def reconfigure(self, request: ReconfigureRequest) -> None:
        """Take on options that need no restart."""
        if self._user_code is None or self._spec is None:
            raise HeadraceError(f"replica {self.replica_id} is not initialized yet")
        options = request.options
        self._spec.deployment.options = options
        moved = self._take_rank(request)
        changed = request.user_config_changed and options.get("user_config") is not None
        if changed or (moved and self._user_code.wants_rank):
            try:
                await self._user_code.reconfigure(options.get("user_config"))
            except Exception as error:
                raise ConstructorError(user_traceback(error)) from error
        self.service.set_limits(int(options["max_ongoing_requests"]), open=self.phase == "running")
        if self.stats is not None and self.phase == "running":
            self.stats.follow(self._user_code, options)

    def _take_rank(self, request: ReconfigureRequest) -> bool:
        """Whether the replica has another rank now: others have gone, and theirs are taken."""
        replica = current_replica()
        assert replica is not None and self._spec is not None
        rank = ReplicaRank(request.rank, request.node_rank, request.local_rank)
        moved = replica.rank != rank
        replica.rank = rank
        replica.world_size = request.world_size
        spec = self._spec
        spec.rank, spec.node_rank, spec.local_rank = request.rank, request.node_rank, request.local_rank
        spec.world_size = request.world_size
        return moved

    async def check_health(self) -> None:
        """Raises what the user's `check_health` raises."""
        if self._user_code is not None:
            await self._user_code.check_health()

    async def state(self) -> ReplicaState:
        return ReplicaState(
            replica_id=self.replica_id,
            app=self._app,
            deployment=self._deployment,
            version=self._spec.deployment.version if self._spec is not None else "",
            phase=self.phase,
            ongoing=self.ongoing,
            spec=self._spec,
            error=self._error,
            multiplexed_model_ids=loaded_model_ids(),
            initialized=self._reply,
            progress=self._context.progress if self._context is not None else "",
        )

    async def drain(self, request: DrainRequest) -> bool:
        """Admit nothing any more, wait for what is in flight, and until all callers have hung up.

        Returns:
            Whether all was answered within `timeout_s`.
        """
        if not await self.finish(request.timeout_s):
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._callers_gone()
        return True

    async def finish(self, timeout_s: float) -> bool:
        """Admit nothing any more, and wait for what is in flight.

        Returns:
            Whether all was answered within `timeout_s`.
        """
        self.phase = "draining"
        if self.stats is not None:
            self.stats.close()
        service = self.service
        service.set_limits(service.max_ongoing, open=False)
        service.on_idle = self._idle.set
        try:
            async with asyncio.timeout(timeout_s):
                while service.ongoing > 0:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _callers_gone(self) -> None:
        """Callers hang up when they learn that this replica leaves. What they have sent until then is rejected and goes
        to another one; were the process gone, it would be lost."""
        if self.listener is None:
            return
        while callers := self.listener.connections - set(self.service.controllers):
            gone = asyncio.Event()
            callers.pop().on_lost = gone.set
            await gone.wait()

    async def close(self) -> None:
        """Let the user's code clean up."""
        try:
            if self._lifespan is not None:
                await self._lifespan.shutdown()
        finally:
            try:
                await unload_all()
            finally:
                if self._user_code is not None:
                    await self._user_code.close()

    def _warn_of_small_batches(self, max_ongoing: int) -> None:
        """A batch can never be larger than the number of requests that are admitted, and waits in vain to be."""
        code = self._user_code
        assert code is not None
        for name in code.method_names():
            function: Any = code.method(name).function
            if getattr(function, "__headrace_batched__", False):
                size = function.get_max_batch_size()
                if size > max_ongoing:
                    logger.warning(
                        "batches of %s.%s will never have more than max_ongoing_requests=%d requests, though "
                        "max_batch_size=%d; set max_ongoing_requests to at least twice max_batch_size",
                        self._deployment,
                        name,
                        max_ongoing,
                        size,
                    )
