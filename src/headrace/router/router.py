"""Queues a deployment's requests at their caller and dispatches them to replicas with room."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from headrace.config.spec import DeploymentTargets, Load
from headrace.exceptions import (
    BackPressureError,
    ConfigError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from headrace.router.call import MAX_ATTEMPTS, RoutedCall
from headrace.router.latencies import Latencies
from headrace.router.link import ReplicaLink
from headrace.router.link_watch import LinkWatch
from headrace.router.locality import Here
from headrace.router.policy import (
    ModelAffinity,
    NearestFirst,
    PowerOfTwoChoices,
    RoutingPolicy,
    SessionAffinity,
    load_policy,
)
from headrace.wire import frames
from headrace.wire.connection import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("headrace.router")

_NOWHERE = Here()

_MAX_SETTLED = 64
"""How many settled requests may lie in a queue beyond as many as wait."""

_WAITS = 256


class Router:
    """Routes the requests of one process to one deployment. Lives on one event loop.

    Requests go out in the order in which they came. One that finds no room waits; where `max_queued_requests` wait
    already, it is refused. A request that a replica rejects (other callers filled it) goes back to the head of the
    queue. Nothing polls: replicas say when they have room again.

    Attributes:
        queue: requests that wait for a replica, oldest first; may hold settled ones, which are skipped.
        queued: how many really wait.
        refused: requests for which there was no place in the queue.
        waits: the last requests that had to wait: id, when they were sent (`time.monotonic()`), and how long they had
            waited, seconds.
        here: where this process runs.
        reachable: the replicas that are connected; `sort` says which of them are preferred.
        compares: whether the replicas' latencies are worth comparing.
        report_interval_s: how often the controller wants to know of the load; None for never.
        latencies: of answered requests, where the deployment scales by them; None otherwise.
        on_starving: called when requests wait and there is no replica at all.
    """

    def __init__(
        self,
        app: str,
        deployment: str,
        loop: asyncio.AbstractEventLoop,
        secret: bytes,
        shared: SharedMemory | None,
        here: Here = _NOWHERE,
    ) -> None:
        self.app = app
        self.here = here
        self.deployment = deployment
        self.loop = loop
        self.queue: deque[RoutedCall] = deque()
        self.queued = 0
        self.unavailable: str | None = None
        self.retryable_methods: frozenset[str] = frozenset()
        self.on_change: Callable[[], None] | None = None
        self.report_interval_s: float | None = None
        self.latencies: Latencies | None = None
        self.on_starving: Callable[[Router], None] | None = None
        self._secret = secret
        self._shared = shared
        self._links: dict[str, ReplicaLink] = {}
        self.reachable: list[ReplicaLink] = []
        self.compares = False
        self.watch = LinkWatch(self)
        # The preferred ones, and those to fall back on where they have no room. Usually all are preferred, and the list
        # is `reachable` itself.
        self._ready = self.reachable
        self._reserve: list[ReplicaLink] = []
        self._max_queued = -1
        self._refusal: tuple[int, float] = (503, 1.0)
        self._even = PowerOfTwoChoices()
        self._default: RoutingPolicy = self._even
        self._by_model: RoutingPolicy = ModelAffinity()
        self._by_session: RoutingPolicy = SessionAffinity()
        self._custom: RoutingPolicy | None = None
        self._policy_config: dict[str, object] = {}
        self._policy_problem = ""
        self._dispatching = False
        self._sequence = 0
        self.refused = 0
        self.waits: deque[tuple[str, float, float]] = deque(maxlen=_WAITS)
        self._told = False
        self._awaiting_replicas: list[asyncio.Future[None]] = []

    # Requests.

    def submit(self, call: RoutedCall) -> None:
        """Send a request to a replica, or queue it, or fail it."""
        call.router = self
        self._sequence = call.sequence = self._sequence + 1
        if self.unavailable is not None:
            self._refuse(call, DeploymentUnavailableError(self.unavailable))
            return
        if self.latencies is not None:
            call.submitted_at = monotonic()
        if not self.queued:
            link = self._choose(call)
            if link is not None:
                link.send(call)
                return
        if 0 <= self._max_queued <= self.queued:
            self.refused += 1
            self._refuse(call, BackPressureError(self.queued, self._max_queued, *self._refusal))
            return
        if not call.submitted_at:
            call.submitted_at = monotonic()
        self.queue.append(call)
        self.queued += 1
        if call.trace is not None:
            call.trace.queued()
        if not self._links:
            self._starve()

    def _starve(self) -> None:
        if self.on_starving is not None and self.report_interval_s is not None:
            self.on_starving(self)

    def _refuse(self, call: RoutedCall, error: Exception) -> None:
        call.router = None  # it does not wait here: should it be cancelled first, it leaves no queue
        self.loop.call_soon(call.fail, error)

    def dispatch(self) -> None:
        """Send queued requests for as long as there is room."""
        if self._dispatching:
            return
        self._dispatching = True
        queue = self.queue
        try:
            while queue:
                call = queue[0]
                if call.settled:
                    queue.popleft()
                    continue
                link = self._choose(call)
                if link is None:
                    return
                queue.popleft()
                self.queued -= 1
                now = monotonic()
                self.waits.append((call.request_id, now, now - call.submitted_at))
                if call.trace is not None:
                    call.trace.sent()
                link.send(call)
        finally:
            self._dispatching = False

    def requeue(self, call: RoutedCall) -> None:
        """A replica rejected it: it takes its place in the queue again, before all that came later, whatever the
        queue's limit."""
        if call.settled:
            return
        if self.unavailable is not None:
            call.fail(DeploymentUnavailableError(self.unavailable))
            return
        if not call.submitted_at:
            call.submitted_at = monotonic()
        queue = self.queue
        if not queue or call.sequence < queue[0].sequence:
            queue.appendleft(call)
        else:
            older = next((i for i, waiting in enumerate(queue) if waiting.sequence > call.sequence), len(queue))
            queue.insert(older, call)
        self.queued += 1
        if call.trace is not None:
            call.trace.queued()
        if not self._links:
            self._starve()
        self.dispatch()

    def left_queue(self) -> None:
        """A waiting request was cancelled."""
        self.queued -= 1
        if self._dispatching:
            return
        queue = self.queue
        if len(queue) > 2 * self.queued + _MAX_SETTLED:
            # Requests that time out while there is no replica must not pile up with all that they carry.
            self.queue = deque(call for call in queue if not call.settled)
        if self.queued and self._custom is not None:
            self.dispatch()  # a policy may have held back all for the one that has left

    def lost(self, call: RoutedCall) -> None:
        """The replica hung up on it."""
        if call.settled:
            return
        may_repeat = call.retryable or call.method in self.retryable_methods
        # The pieces of a body that streamed are gone.
        repeatable = may_repeat and not call.responding and not call.flags & frames.MORE
        if repeatable and call.attempts < MAX_ATTEMPTS:
            self.requeue(call)
        else:
            call.fail(
                ReplicaUnavailableError(
                    f"a replica of deployment {self.deployment!r} died or hung up while it worked on the request"
                )
            )

    def _choose(self, call: RoutedCall) -> ReplicaLink | None:
        link = self._choose_of(call, self._ready)
        return link if link is not None or not self._reserve else self._choose_of(call, self._reserve)

    def _choose_of(self, call: RoutedCall, replicas: list[ReplicaLink]) -> ReplicaLink | None:
        if self._custom is not None:
            return self._choose_by(self._custom, call)
        if call.multiplexed_model_id:
            return self._by_model.choose(call, replicas)
        if call.session_id:
            return self._by_session.choose(call, replicas)
        return self._default.choose(call, replicas)

    def _choose_by(self, policy: RoutingPolicy, call: RoutedCall) -> ReplicaLink | None:
        """A user's policy's choice. One that raises, or makes up replicas, must neither lose requests nor stop others:
        the default policy steps in."""
        ready = self._ready
        try:
            link = policy.choose(call, ready)
            if link is None or any(known is link for known in ready):
                return link if link is None or link.free else None
            problem = f"chose {link!r}, which is none of the replicas that it was given"
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
        if problem != self._policy_problem:
            self._policy_problem = problem
            logger.error(
                "the routing policy %s of %s %s; the default policy steps in",
                type(policy).__name__,
                self.deployment,
                problem,
            )
        return self._default.choose(call, ready)

    def _tell_policy(self, policy: RoutingPolicy, replica_ids: list[str]) -> None:
        tell = getattr(policy, "replicas_changed", None)  # only `choose` is asked of a policy
        if tell is None:
            return
        try:
            tell(replica_ids)
        except Exception as error:
            name = type(policy).__name__
            logger.error("the routing policy %s of %s cannot take on its replicas: %r", name, self.deployment, error)

    # The replica set.

    def update(self, targets: DeploymentTargets) -> None:
        """Take on a new replica set and limits."""
        self._max_queued = targets.max_queued_requests
        self._refusal = (targets.refusal_status_code, targets.refusal_retry_after_s)
        self.retryable_methods = frozenset(targets.retryable_methods)
        self.unavailable = targets.unavailable
        self._told = True
        self.report_interval_s = targets.report_interval_s
        self._set_latency_target(targets.latency_target_s)
        self._set_policy(targets.routing_policy)
        wanted = {target.replica_id: target for target in targets.replicas}
        for replica_id in [known for known in self._links if known not in wanted]:
            self._links.pop(replica_id).leave()
        for replica_id, target in wanted.items():
            link = self._links.get(replica_id)
            if link is not None:
                link.update(target)
            else:
                link = self._links[replica_id] = ReplicaLink(self, target)
                link.open(self.loop, self._secret, self._shared)
        if self._custom is not None:
            self._tell_policy(self._custom, list(wanted))
        if self.unavailable is not None:
            self._fail_waiting()
        elif self.queue:
            self.dispatch()
            if self.queued and not self._links:
                self._starve()
        if self._awaiting_replicas:
            self._wake_those_who_await_replicas()
        if self.on_change is not None:
            self.on_change()

    def _set_latency_target(self, target_s: float | None) -> None:
        if target_s is None:
            self.latencies = None
        elif self.latencies is None:
            self.latencies = Latencies(target_s)
        else:
            self.latencies.target_s = target_s

    def _set_policy(self, config: dict[str, object]) -> None:
        if config == self._policy_config:
            return
        self._policy_config = config
        self._custom = None
        for link in self.reachable:
            link.slow = False
        self._replicas_changed()
        path = config.get("request_router_class")
        if isinstance(path, str) and path:
            kwargs = config.get("request_router_kwargs")
            try:
                self._custom = load_policy(path, kwargs if isinstance(kwargs, dict) else {})
                self.compares = False
            except ConfigError as error:
                logger.error("%s; requests to %s go by the default policy", error, self.deployment)

    def _fail_waiting(self) -> None:
        waiting, self.queue, self.queued = self.queue, deque(), 0
        for call in waiting:
            call.fail(DeploymentUnavailableError(self.unavailable or ""))

    def joined(self, link: ReplicaLink) -> None:
        """A replica is connected."""
        self.reachable.append(link)
        self._replicas_changed()
        if self.queue:
            self.dispatch()
        if self._awaiting_replicas:
            self._wake_those_who_await_replicas()

    def left(self, link: ReplicaLink) -> None:
        """A replica takes no more requests from here."""
        if link in self.reachable:
            self.reachable.remove(link)
            self._replicas_changed()

    def _replicas_changed(self) -> None:
        # A user's policy may have reasons to load replicas unevenly.
        self.compares = len(self.reachable) > 1 and self._custom is None
        if self._ready is not self.reachable or len({link.distance for link in self.reachable}) > 1:
            self.sort()
        else:
            self._default = self._even

    def sort(self) -> None:
        """Tell preferred replicas from others, after one has stalled or become slow, or the reverse.

        Where all have stalled, none is preferred: user code that blocks the event loop does not make its deployment
        unavailable.
        """
        reachable = self.reachable
        answering = [link for link in reachable if not link.stalled] or list(reachable)
        preferred = [link for link in answering if not link.slow]
        self._reserve = [link for link in answering if link.slow] if preferred else []
        usual = not any(link.stalled or link.slow for link in reachable)
        self._ready = reachable if usual else preferred or answering
        groups = [group for group in (self._ready, self._reserve) if len({link.distance for link in group}) > 1]
        self._default = NearestFirst(groups) if groups else self._even
        if self.queue:
            self.dispatch()

    @property
    def load(self) -> Load:
        """What is asked of the deployment from here: requests that wait, and those at replicas that take requests."""
        return Load(self.queued, sum(link.inflight for link in self._links.values()))

    @property
    def submitted(self) -> int:
        """How many requests it has been given."""
        return self._sequence

    @property
    def ready_replicas(self) -> int:
        return len(self.reachable)

    async def populated(self) -> None:
        """Returns when the replica set is known, and all that is in it is connected."""
        while not (self._told and all(link.connection is not None for link in self._links.values())):
            waiter = self.loop.create_future()
            self._awaiting_replicas.append(waiter)
            await waiter

    def _wake_those_who_await_replicas(self) -> None:
        awaiting, self._awaiting_replicas = self._awaiting_replicas, []
        for waiter in awaiting:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """Hang up on every replica; what waits, and what comes, fails."""
        self.unavailable = "the connection to the instance was closed"
        self._fail_waiting()
        for link in self._links.values():
            link.leaving = True
            link.close()
        self.watch.stop()
        self._links.clear()
        self.reachable.clear()
        self._ready = self.reachable
        self._reserve = []
        self._told = True
        self._wake_those_who_await_replicas()
