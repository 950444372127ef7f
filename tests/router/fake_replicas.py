"""Replicas whose sockets are the test: a router sends to them, and the test says what comes back and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.config.spec import DeploymentTargets, ReplicaTarget
from headrace.router.call import RoutedCall
from headrace.router.headers import with_ongoing
from headrace.router.link import ReplicaLink
from headrace.wire import frames
from headrace.wire.errors import ConnectionLost


class Turns:
    """An event loop's `call_soon`, run when the test says so."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self.soon.append((callback, args))

    def time(self) -> float:
        return 0.0

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Nothing comes later here."""
        return None

    def turn(self) -> None:
        while self.soon:
            soon, self.soon = self.soon, []
            for callback, args in soon:
                callback(*args)


class FakeConnection:
    """What a link needs of a connection."""

    def __init__(self, link: FakeLink) -> None:
        self.link = link
        self.calls: dict[int, RoutedCall] = {}
        self.closed = False
        self.silent = False
        self.cancelled: list[RoutedCall] = []
        self._next = 0

    def call(self, call: RoutedCall, flags: int, header: bytes, payload: Any) -> None:
        assert not self.closed
        self._next += 1
        call.connection = self  # type: ignore[assignment]
        call.id = self._next
        self.calls[call.id] = call

    def send(self, kind: int, flags: int, call_id: int, header: bytes = b"", payload: bytes = b"") -> None:
        assert kind == frames.CANCEL

    def forget(self, call_id: int) -> None: ...

    def close(self) -> None:
        self.closed = True


class FakeLink(ReplicaLink):
    """A link that connects when the test says so."""

    __slots__ = ("opened",)

    def open(self, loop: Any, secret: bytes, shared: Any) -> None:
        self.opened = True

    def connect(self) -> None:
        """What a link does once the handshake is over."""
        assert self.connection is None and not self.leaving
        self.connection = FakeConnection(self)  # type: ignore[assignment]
        self.full = False
        self.others = 0
        self.router.joined(self)

    @property
    def fake(self) -> FakeConnection:
        assert self.connection is not None
        return self.connection  # type: ignore[return-value]

    # What a replica may do.

    def _take(self, call: RoutedCall) -> RoutedCall:
        connection = call.connection
        assert connection is not None
        del connection.calls[call.id]
        call.connection = None
        return call

    def answer(self, call: RoutedCall, others: int = 0) -> None:
        ongoing = self.inflight - 1 + others
        self._take(call).on_response(0, with_ongoing(ongoing), b"")

    def fail(self, call: RoutedCall) -> None:
        self._take(call).on_error(0, with_ongoing(self.inflight - 1), b"")

    def start(self, call: RoutedCall) -> None:
        call.on_start(0, bytes(4), b"")

    def end(self, call: RoutedCall) -> None:
        self._take(call).on_end(with_ongoing(self.inflight - 1))

    def reject(self, call: RoutedCall) -> None:
        self._take(call).on_reject(with_ongoing(self.limit))

    def announce_room(self) -> None:
        self._has_capacity()

    def lose(self) -> None:
        """The connection ends: as `CallerConnection.lost`."""
        connection = self.fake
        connection.closed = True
        calls, connection.calls = connection.calls, {}
        self._connection_lost(b"", None)
        for call in calls.values():
            call.connection = None
            call.on_lost(ConnectionLost("gone"))


class RecordedCall(RoutedCall):
    """Notes how it ends, and that it ends once."""

    def __init__(self, number: int, **routing: Any) -> None:
        super().__init__(routing.pop("flags", 0), b"", b"", **routing)
        self.number = number
        self.outcomes: list[str | Exception] = []
        self.sent = 0
        self.rejected = 0
        self.lost_while_sent = 0

    def answered(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.outcomes.append("answered")

    def failed_remotely(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.outcomes.append("failed remotely")

    def failed(self, error: Exception) -> None:
        self.outcomes.append(error)

    def ended(self) -> None:
        self.outcomes.append("ended")

    def __repr__(self) -> str:
        return f"call {self.number}"


def _place(replica_id: str) -> dict[str, str]:
    """Of a replica whose id is written "name@node" or "name@node/zone"."""
    _, _, place = replica_id.partition("@")
    node, _, zone = place.partition("/")
    return {"node": node, "zone": zone}


def targets(
    limits: dict[str, int], *, max_queued: int = -1, unavailable: str | None = None, **more: Any
) -> DeploymentTargets:
    return DeploymentTargets(
        app="app",
        deployment="Model",
        replicas=[
            ReplicaTarget(replica_id=replica_id, address="", max_ongoing_requests=limit, **_place(replica_id))
            for replica_id, limit in limits.items()
        ],
        max_queued_requests=max_queued,
        unavailable=unavailable,
        **more,
    )
