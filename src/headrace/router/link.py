"""The connection to one replica, and what this process knows of its load."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from typing import TYPE_CHECKING

from headrace.config.spec import ReplicaTarget
from headrace.wire.caller import CallerConnection, connect
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import HandshakeFailed

if TYPE_CHECKING:
    from headrace.router.call import RoutedCall
    from headrace.router.router import Router

logger = logging.getLogger("headrace.router")

_FIRST_RETRY_S = 0.02
_LAST_RETRY_S = 1.0

_TELL_AFTER_S = 5.0
"""A replica that has been out of reach for so long is warned of, once."""

_REMEMBERED = 16
"""Over so many answers the latency is averaged."""

_MODEL_REPORT_S = 1.0
"""How long a replica may take, on the way over the controller, to say that it holds a model that we have sent it."""


class ReplicaLink:
    """One replica as one router sees it.

    Attributes:
        node, zone: where it runs.
        distance: how far from here, as `locality` counts it.
        inflight: requests that this router has sent and that are not answered.
        others: requests of other callers there, as of its last answer.
        full: it rejected a request and has not said since that it has room.
        limit: its `max_ongoing_requests`.
        model_ids: the models that it has reported, and those that it must be loading for requests of ours.
        asked: it was asked for a sign of life, and none has come.
        stalled: nor had one come a while later: it gets no requests while others answer.
        gave_up: a request was cancelled since something came.
        answers: how many answers `log_latency` tells of.
        log_latency: moving average of the logarithm of the latency in seconds; of the logarithm, so that a few long
            requests do not make a replica look slow.
        slow: it was far slower than its peers, and gets requests only where these have no room, until `slow_until`.
        times_slow: how often in a row.
    """

    __slots__ = (
        "_out_of_reach_since",
        "_sent_models",
        "_task",
        "_told",
        "addresses",
        "answers",
        "asked",
        "connection",
        "distance",
        "full",
        "gave_up",
        "inflight",
        "leaving",
        "limit",
        "log_latency",
        "model_ids",
        "node",
        "others",
        "replica_id",
        "router",
        "slow",
        "slow_until",
        "stalled",
        "times_slow",
        "zone",
    )

    def __init__(self, router: Router, target: ReplicaTarget) -> None:
        self.router = router
        self.replica_id = target.replica_id
        near = router.here.node == target.node and target.socket
        # Its Unix socket, and where that cannot be reached (from within a container of its own), the other way.
        self.addresses = (near, target.address) if near and near != target.address else (target.address,)
        self.node = target.node
        self.zone = target.zone
        self.distance = router.here.distance(target)
        self.limit = target.max_ongoing_requests
        self.model_ids = set(target.multiplexed_model_ids)
        self._sent_models: dict[str, float] = {}
        self.inflight = 0
        self.others = 0
        self.full = False
        self.leaving = False
        self.asked = False
        self.stalled = False
        self.gave_up = False
        self.answers = 0
        self.log_latency = 0.0
        self.slow = False
        self.slow_until = 0.0
        self.times_slow = 0
        self.connection: CallerConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = False
        self._out_of_reach_since = 0.0

    @property
    def load(self) -> int:
        """Requests there: ours, and those of others as last heard."""
        return self.inflight + self.others

    @property
    def free(self) -> bool:
        return self.inflight < self.limit and not self.full

    def update(self, target: ReplicaTarget) -> None:
        self.limit = target.max_ongoing_requests
        self.model_ids = set(target.multiplexed_model_ids)
        if self._sent_models:
            # What others have reported since is news of an older state of this one.
            since = time.monotonic() - _MODEL_REPORT_S
            unheard = self._sent_models.items()
            self._sent_models = {m: at for m, at in unheard if at > since and m not in self.model_ids}
            self.model_ids.update(self._sent_models)

    def send(self, call: RoutedCall) -> None:
        self.inflight += 1
        call.link = self
        call.attempts += 1
        router = self.router
        if not router.watch.running:
            router.watch.begin()
        if router.compares:
            call.sent_at = time.monotonic()
        if call.multiplexed_model_id:
            self._note_model(call.multiplexed_model_id)
            call.sent_at = 0.0  # replicas differ here by what models they hold
        self.connection.call(call, call.flags, call.header, call.payload)  # type: ignore[union-attr]

    def _note_model(self, model_id: str) -> None:
        if model_id not in self.model_ids:
            self.model_ids.add(model_id)
            self._sent_models[model_id] = time.monotonic()

    def finished(self, header: bytes) -> None:
        """One of our requests was answered; the header says how many the replica still works on."""
        self.inflight -= 1
        others = int.from_bytes(header[:4], "little") - self.inflight
        self.others = others if others > 0 else 0
        self.full = False
        if self.router.queue:
            self.router.dispatch()
        if self.leaving and self.inflight <= 0:
            self.close()

    def measured(self, seconds: float) -> None:
        """One of our requests took so long."""
        self.answers = answers = self.answers + 1
        weight = answers if answers < _REMEMBERED else _REMEMBERED
        self.log_latency += (math.log(seconds + 1e-6) - self.log_latency) / weight

    def rejected(self, header: bytes) -> None:
        self.inflight -= 1
        self.others = max(0, int.from_bytes(header[:4], "little") - self.inflight)
        self.full = True
        if self.leaving and self.inflight <= 0:
            self.close()

    def abandoned(self) -> None:
        """One of our requests was cancelled. The replica answers nothing to it, so its place is free for us now."""
        self.inflight -= 1
        self.gave_up = True
        if self.router.queue:
            self.router.dispatch()
        if self.leaving and self.inflight <= 0:
            self.close()

    # The connection.

    def open(self, loop: asyncio.AbstractEventLoop, secret: bytes, shared: SharedMemory | None) -> None:
        self._task = loop.create_task(self._connect(secret, shared))

    async def _connect(self, secret: bytes, shared: SharedMemory | None) -> None:
        delay_s = _FIRST_RETRY_S
        attempts = 0
        self._out_of_reach_since = time.monotonic()
        while not self.leaving:
            address = self.addresses[attempts % len(self.addresses)]
            attempts += 1
            try:
                connection = await connect(address, secret, shared)
            except (OSError, HandshakeFailed, TimeoutError) as error:
                self._not_connected(address, error)
                await asyncio.sleep(delay_s)
                delay_s = min(_LAST_RETRY_S, 2 * delay_s)
                continue
            self._task = None
            if self.leaving:
                connection.close()
                return
            self.connection = connection
            self.full = False
            self.others = 0
            connection.on_lost = lambda: self._connection_lost(secret, shared)
            connection.on_capacity = self._has_capacity
            connection.on_pong = self._pong
            self.asked = self.stalled = self.gave_up = self._told = False
            self.router.joined(self)
            return

    def _not_connected(self, address: str, error: Exception) -> None:
        # A certificate that is refused today is refused tomorrow too, until somebody does something about it.
        serious = isinstance(error, ssl.SSLError) or time.monotonic() - self._out_of_reach_since > _TELL_AFTER_S
        level = logging.WARNING if serious and not self._told else logging.DEBUG
        self._told = self._told or serious
        reason = str(error) or type(error).__name__
        logger.log(level, "no connection to replica %s at %s yet: %s", self.replica_id, address, reason)

    def _has_capacity(self) -> None:
        self.full = False
        if self.router.queue:
            self.router.dispatch()

    def _pong(self) -> None:
        self.asked = False
        if self.stalled:
            self.stalled = False
            self.router.sort()

    def _connection_lost(self, secret: bytes, shared: SharedMemory | None) -> None:
        self.connection = None
        self.router.left(self)
        if not self.leaving:
            self.open(self.router.loop, secret, shared)

    def leave(self) -> None:
        """The replica takes no new requests from now on; what is in flight is still answered."""
        self.leaving = True
        self.router.left(self)
        if self.inflight <= 0:
            self.close()

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None
