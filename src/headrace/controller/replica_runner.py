"""Runs one replica: does what its state machine says, and tells the machine what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    DrainRequest,
    InitializeReply,
    ReconfigureRequest,
    ReplicaSpec,
    ReplicaState,
)
from headrace.controller import replica_machine as rm
from headrace.controller.health import BLOCKED_AFTER_S, check_health, does_nothing, is_stopped, read_vitals
from headrace.controller.ranks import Rank
from headrace.controller.replica_connection import ReplicaConnection
from headrace.controller.replica_counts import DeploymentCounts, ReplicaTimes
from headrace.controller.replica_machine import Action, Phase, Replica
from headrace.engine.process import Activity, ProcessInfo, ProcessSpec
from headrace.engine.protocol import Engine
from headrace.exceptions import HeadraceError
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.controller")

CONNECT_FOR_S = 5.0
"""How long one try to connect to a replica may take."""

OUT_OF_REACH_S = 60.0
"""For how long connecting is tried again. A replica's socket listens before it exists, so what makes connecting fail is
its death, which arrives as an exit meanwhile, with a better reason; or the way to its machine, which may be mended."""

ADOPT_TIMEOUT_S = 2.0
TERM_GRACE_S = 6.0
"""From SIGTERM to SIGKILL; a replica takes up to five seconds for what its user code cleans up."""

STATE_POLL_S = 0.25

PROGRESS_POLL_S = 1.0
"""How often a constructor that takes longer than this is asked how far it is."""

WAITING_POLL_S = 0.5
"""How often the engine is asked what a replica that is being started waits for."""

# Of any other, as of one whose constructor failed, more is asked.
_PHASES = {
    "starting": Phase.STARTING,
    "initializing": Phase.INITIALIZING,
    "running": Phase.RUNNING,
    "draining": Phase.DRAINING,
}


class ReplicaRunner:
    """One replica.

    Args:
        spec: what it runs; None for an adopted one of which only the process is known so far.
        version, config: what `reconcile` knows it by.
        process: its name with the engine.
        secret: the instance's.
        on_change: called with the runner and the state before, after every event that changed something.
        on_reconfigured: called with the config and, if the replica refused it, why.
        on_waiting: called when `waiting_for` has changed.
        on_placed: called when it is known where it runs; returns its ranks.
        counts: its deployment's.

    Attributes:
        waiting_for: what the engine says that its start waits for; None if it does not wait.
        place: its ranks; those of its machine are known once it has one.
        gang: its place in its gang; None if it is in none.
    """

    def __init__(
        self,
        replica_id: str,
        spec: ReplicaSpec | None,
        options: DeploymentOptions,
        version: str,
        config: str,
        process: str,
        secret: bytes,
        engine: Engine,
        on_change: Callable[[ReplicaRunner, Replica], None],
        on_reconfigured: Callable[[ReplicaRunner, str, str | None], None],
        on_waiting: Callable[[], None],
        on_placed: Callable[[ReplicaRunner], Rank],
        counts: DeploymentCounts,
    ) -> None:
        self.replica_id = replica_id
        self.spec = spec
        self.options = options
        self.version = version
        self.config = config
        self.process = process
        self.waiting_for: str | None = None
        self.replica = Replica()
        self.place = Rank(spec.rank if spec is not None else 0)
        self.gang = spec.gang if spec is not None else None
        self.loop = asyncio.get_running_loop()
        self.started_at = self.loop.time()
        self.started_at_unix = time.time()
        self.running_since: float | None = None
        self.progress = ""
        self.reconfiguring = False
        self.multiplexed_model_ids: list[str] = []
        self.retryable_methods: list[str] = []
        self._secret = secret
        self._engine = engine
        self._on_change = on_change
        self._on_reconfigured = on_reconfigured
        self._on_waiting = on_waiting
        self._on_placed = on_placed
        self._where: ProcessInfo | None = None
        self._connection = ReplicaConnection(secret, lambda: self.feed(rm.ConnectionLost()))
        self._times = ReplicaTimes(counts, replica_id, self.started_at)
        self._start_in_flight = False
        self._drain_within_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._doings: dict[Action, Callable[[], Coroutine[Any, Any, None]]] = {
            Action.CONNECT: self._connect,
            Action.INITIALIZE: self._initialize,
            Action.AWAIT_CONSTRUCTOR: self._await_constructor,
            Action.WATCH_HEALTH: self._watch_health,
            Action.DRAIN: self._drain,
            Action.KILL: self._kill,
        }

    # What others call.

    def start(self, process: ProcessSpec) -> None:
        """Ask the engine for the process; the rest follows."""
        self._start_in_flight = True
        self._spawn(self._start(process))

    async def adopt(self, info: ProcessInfo) -> None:
        """Take over a replica that an earlier controller started. Returns when it is known how far it is, and after
        ADOPT_TIMEOUT_S at the latest: one that is silent must not keep a new controller from its work."""
        self._reach(info)
        pid = info.pid
        asking = self.loop.create_task(self._ask_state())
        vitals = await read_vitals(info.vitals, self._secret, ADOPT_TIMEOUT_S)
        if vitals is not None and vitals.loop_blocked_s >= BLOCKED_AFTER_S and not asking.done():
            asking.cancel()
            self.feed(rm.Adopted(pid, _PHASES.get(vitals.phase, Phase.INITIALIZING)))
            self._spawn(self._learn_later())
            return
        state = await asking
        if state is None:
            self.feed(rm.Adopted(pid, Phase.INITIALIZING))
            self._spawn(self._await_sign_of_life())
            return
        self._learn(state)
        self.feed(rm.Adopted(pid, _PHASES.get(state.phase, Phase.INITIALIZING)))
        if state.error is not None:
            self.feed(rm.InitializeFailed(state.error))

    def stop(self, within_s: float | None = None) -> None:
        """End it, when it has answered what it works on.

        Args:
            within_s: how long that may take, if less than its options say.
        """
        self._drain_within_s = within_s
        self.feed(rm.StopWanted())

    def reconfigure(self, spec: ReplicaSpec, options: DeploymentOptions, config: str) -> None:
        """Have a running replica take on options that need no restart."""
        request = ReconfigureRequest(
            options=spec.deployment.options,
            user_config_changed=options.user_config != self.options.user_config,
            rank=spec.rank,
            world_size=spec.world_size,
            node_rank=spec.node_rank,
            local_rank=spec.local_rank,
        )
        self.reconfiguring = True
        self._spawn(self._reconfigure(request, spec, options, config))

    def take_rank(self, spec: ReplicaSpec) -> None:
        """Have a running replica take the ranks in `spec`, all else being as it is."""
        self.spec, self.place = spec, _place_in(spec)
        request = ReconfigureRequest(
            options=spec.deployment.options,
            rank=spec.rank,
            world_size=spec.world_size,
            node_rank=spec.node_rank,
            local_rank=spec.local_rank,
        )
        self._spawn(self._take_rank(request, self.place))

    def feed(self, event: rm.Event) -> None:
        """Let the machine know of an event, and do what it says."""
        before = self.replica
        self.replica, actions = rm.step(before, event)
        if self.replica.phase is Phase.RUNNING and self.running_since is None:
            self.running_since = self.loop.time()
        if self.replica != before:
            self._times.moved(before, self.replica, self.loop.time())
            # First of all, so that routers hear of a replica's leaving before it is told to drain.
            self._on_change(self, before)
        for action in actions:
            if action is Action.RELEASE:
                self._release()
            elif action in self._doings:
                self._spawn(self._doings[action]())

    @property
    def node(self) -> str:
        """Where it runs; empty while it has no place."""
        return self._where.node if self._where is not None else ""

    @property
    def vitals(self) -> str:
        """The address of its other thread; empty while there is no process."""
        return self._where.vitals if self._where is not None else ""

    def _reach(self, process: ProcessInfo) -> None:
        self._where, self._connection.address = process, process.address

    @property
    def where(self) -> ProcessInfo:
        """The replica's process. Only once there is one, which is before anybody connects to it."""
        assert self._where is not None, "a replica is reached after its process has started"
        return self._where

    # What the machine asks for.

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("replica %s: internal error", self.replica_id, exc_info=task.exception())
            self.feed(rm.ConnectFailed(f"internal error: {task.exception()!r}"))

    async def _start(self, process: ProcessSpec) -> None:
        asking = self.loop.create_task(self._ask_what_it_waits_for())
        try:
            # No deadline: there may be no place for it before another machine joins.
            self._reach(await self._engine.start(process))
        except (HeadraceError, OSError) as error:
            self.feed(rm.StartRefused(str(error)))
        else:
            self._start_in_flight = False
            # The constructor's time begins here, not that of waiting for a place.
            self.started_at, self.started_at_unix = self.loop.time(), time.time()
            self.place = self._on_placed(self)
            if self.spec is not None:
                self.spec = replace(self.spec, node_rank=self.place.node, local_rank=self.place.local)
            self.feed(rm.ProcessStarted(self.where.pid))
        finally:
            asking.cancel()
            self._wait_for(None)

    async def _ask_what_it_waits_for(self) -> None:
        while True:
            await asyncio.sleep(WAITING_POLL_S)
            self._wait_for(self._engine.waiting(self.process))

    def _wait_for(self, reason: str | None) -> None:
        if reason != self.waiting_for:
            self.waiting_for = reason
            self._on_waiting()

    async def _connect(self) -> None:
        until = self.loop.time() + OUT_OF_REACH_S
        while True:
            try:
                await self._connection.client(CONNECT_FOR_S)
            except (OSError, WireError) as error:
                if self.replica.phase is Phase.RUNNING:
                    return  # its callers may reach it still: health checks go on trying, and count
                if self.loop.time() >= until:
                    self.feed(rm.ConnectFailed(str(error) or type(error).__name__))
                    return
                await asyncio.sleep(0.05)
            else:
                self.feed(rm.Connected())
                return

    async def _initialize(self) -> None:
        if self.spec is None:
            self.feed(rm.InitializeFailed("it was found before it was told what to run"))
            return
        try:
            client = await self._connection.client(CONNECT_FOR_S)
            following = self.loop.create_task(self._follow_progress(client))
            try:
                # No deadline: a constructor may load a model for minutes.
                reply: InitializeReply = await client.call("initialize", self.spec, type=InitializeReply)
            finally:
                following.cancel()
        except RpcError as error:
            self.feed(rm.InitializeFailed(error.message))
        except ConnectionLost:
            pass  # `_lost` has told the machine, which connects again and looks how far the constructor is
        except (OSError, WireError):
            self.feed(rm.ConnectionLost())
        else:
            self.retryable_methods = reply.retryable_methods
            self.feed(rm.Initialized())

    async def _follow_progress(self, client: RpcClient) -> None:
        """Keep in mind what the constructor says of how far it is; one that blocks the event loop says nothing."""
        with contextlib.suppress(OSError, WireError):
            while True:
                await asyncio.sleep(PROGRESS_POLL_S)
                state: ReplicaState = await client.call("state", type=ReplicaState)
                self.progress = state.progress

    async def _await_constructor(self) -> None:
        while self.replica.phase is Phase.INITIALIZING:
            state = await self._ask_state()
            if state is not None:
                self.progress = state.progress
            if state is not None and state.error is not None:
                self.feed(rm.InitializeFailed(state.error))
            elif state is not None and state.phase == "running":
                self._learn(state)
                self.feed(rm.Initialized())
            elif state is not None and state.phase == "starting":
                await self._initialize()
            else:
                await asyncio.sleep(STATE_POLL_S)

    async def _ask_state(self) -> ReplicaState | None:
        try:
            async with asyncio.timeout(ADOPT_TIMEOUT_S):
                client = await self._connection.client(ADOPT_TIMEOUT_S)
                state: ReplicaState = await client.call("state", type=ReplicaState)
        except (OSError, WireError):
            return None
        return state

    async def _learn_later(self) -> None:
        """What a replica whose code blocks the event loop could not tell when it was adopted."""
        while self.replica.active:
            state = await self._ask_state()
            if state is not None:
                self._learn(state)
                self._on_reconfigured(self, self.config, None)
                return
            await asyncio.sleep(STATE_POLL_S)

    async def _await_sign_of_life(self) -> None:
        """Of a replica that was found and is silent: code in C that keeps the interpreter's lock keeps all its threads
        from answering, and is no reason to replace it."""
        silent, began = 0, self.loop.time()
        while self.replica.phase is Phase.INITIALIZING and silent < rm.UNHEALTHY_AFTER:
            idle = await does_nothing(self.where.vitals, self._secret, self._inspect)
            activity = await self._inspect()
            if activity is None and self.loop.time() - began < OUT_OF_REACH_S:
                idle = False  # nothing is known of it: its machine may be out of reach
            silent = rm.UNHEALTHY_AFTER if is_stopped(activity) else silent + 1 if idle else 0
            await asyncio.sleep(STATE_POLL_S)
        if self.replica.phase is Phase.INITIALIZING:
            self.feed(rm.ConnectFailed("it was found running, but does nothing and does not answer"))

    def _learn(self, state: ReplicaState) -> None:
        self.multiplexed_model_ids = state.multiplexed_model_ids
        if state.initialized is not None:
            self.retryable_methods = state.initialized.retryable_methods
        if state.spec is not None:
            self.spec = state.spec
            self.place = _place_in(state.spec)

    async def _watch_health(self) -> None:
        while self.replica.phase is Phase.RUNNING:
            await asyncio.sleep(self.options.health_check_period_s)
            timeout_s = self.options.health_check_timeout_s
            try:
                client = await self._connection.client(timeout_s)
            except (OSError, WireError):
                client = None
            began = self.loop.time()
            finding = await check_health(client, self.where.vitals, self._secret, timeout_s, self._inspect)
            if finding is not None:
                self._times.checked(finding, self.loop.time() - began)
                self.feed(finding)

    async def _inspect(self) -> Activity | None:
        try:
            return await self._engine.inspect(self.process)
        except ConnectionError:  # the engine is gone, and so are we soon
            return None

    async def _drain(self) -> None:
        timeout_s = self.options.graceful_shutdown_timeout_s
        if self._drain_within_s is not None:
            timeout_s = min(timeout_s, self._drain_within_s)
        request = DrainRequest(wait_loop_s=self.options.graceful_shutdown_wait_loop_s, timeout_s=timeout_s)
        try:
            client = await self._connection.client(CONNECT_FOR_S)
            # The replica gives up by itself; a little later we do not believe in it any more.
            await client.call("drain", request, timeout_s=timeout_s + 2.0)
        except (OSError, WireError):
            self.feed(rm.DrainTimedOut())
        else:
            self.feed(rm.Drained())

    async def _kill(self) -> None:
        with contextlib.suppress(ConnectionError):
            stopped = is_stopped(await self._inspect())  # takes nothing but SIGKILL
            for sent in (signal.SIGKILL,) if stopped else (signal.SIGTERM, signal.SIGKILL):
                if not await self._engine.kill(self.process, sent) and not self._start_in_flight:
                    self.feed(rm.ProcessExited("its process was gone already"))
                    return
                await asyncio.sleep(TERM_GRACE_S)

    def _release(self) -> None:
        self._engine.release(self.process)
        self.cancel()

    async def _reconfigure(
        self, request: ReconfigureRequest, spec: ReplicaSpec, options: DeploymentOptions, config: str
    ) -> None:
        refused = None
        began = self.loop.time()
        try:
            client = await self._connection.client(CONNECT_FOR_S)
            await client.call("reconfigure", request)
            self._times.reconfigured(self.loop.time() - began)
        except RpcError as error:
            refused = error.message
        except (OSError, WireError):
            config = self.config  # tried again, if the replica lives
        finally:
            self.reconfiguring = False
        if refused is None and config != self.config:
            self.spec, self.options, self.config = spec, options, config
        self._on_reconfigured(self, config, refused)

    async def _take_rank(self, request: ReconfigureRequest, place: Rank) -> None:
        while self.replica.phase is Phase.RUNNING and self.place == place:
            try:
                client = await self._connection.client(CONNECT_FOR_S)
                await client.call("reconfigure", request)
            except RpcError as error:
                self._on_reconfigured(self, self.config, error.message)
                return
            except (OSError, WireError):
                await asyncio.sleep(STATE_POLL_S)  # tried again, if the replica lives
            else:
                return

    def cancel(self) -> None:
        """End all that is under way, and leave the replica as it is: another controller may adopt it."""
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        self._connection.close()


def _place_in(spec: ReplicaSpec) -> Rank:
    return Rank(spec.rank, spec.node_rank, spec.local_rank)
