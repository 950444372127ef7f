"""A request on its way to whichever replica the router chooses, again and again if need be."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from headrace.wire.caller import Call
from headrace.wire.codec import Buffers
from headrace.wire.errors import ConnectionLost

if TYPE_CHECKING:
    from headrace.router.link import ReplicaLink
    from headrace.router.router import Router

MAX_ATTEMPTS = 5
"""How often a retryable request is sent before its replicas' deaths count as its own failure."""


class CallTrace(Protocol):
    """What records a call's way, where requests are traced."""

    def queued(self) -> None: ...

    def sent(self) -> None: ...


class RoutedCall(Call):
    """Subclasses implement `answered`, `failed`, `failed_remotely` and, for streams, `started`, `piece` and `ended`.

    Attributes:
        retryable: whether it may be sent again when its replica died before it answered.
        settled: answered, failed or abandoned; nothing more will be told.
        sent_at: `time.monotonic()` when it was sent, where its latency is to be compared with others'; 0 where not.
        submitted_at: the same when it came to its router, where latencies are told or it had to wait; 0 where not.
        sequence: its place among the requests of its router, by when they came.
        routing_hint: what the caller tells the routing policy; never leaves the process.
        trace: is told when it waits and when it waits no more; None where requests are not traced.
    """

    __slots__ = (
        "attempts",
        "flags",
        "header",
        "link",
        "method",
        "multiplexed_model_id",
        "payload",
        "responding",
        "retryable",
        "router",
        "sent_at",
        "sequence",
        "session_id",
        "settled",
        "submitted_at",
        "trace",
    )

    # Of the class, since only calls of handles have one of their own: others do not pay for it.
    routing_hint: Any = None

    # Where the caller knows it.
    request_id: str = ""

    def __init__(
        self,
        flags: int,
        header: bytes,
        payload: bytes | Buffers,
        method: str = "",
        multiplexed_model_id: str = "",
        session_id: str = "",
        retryable: bool = False,
    ) -> None:
        # One flat constructor: it runs for every request.
        self.connection = None
        self.id = 0
        self.taken = 0
        self.send_window = 0
        self.flags = flags
        self.header = header
        self.payload = payload
        self.method = method
        self.multiplexed_model_id = multiplexed_model_id
        self.session_id = session_id
        self.retryable = retryable
        self.settled = False
        self.responding = False
        self.attempts = 0
        self.sequence = 0
        self.sent_at = 0.0
        self.submitted_at = 0.0
        self.link: ReplicaLink | None = None
        self.router: Router | None = None
        self.trace: CallTrace | None = None

    # For subclasses.

    def answered(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        """The answer; the header's first four bytes are the router's."""

    def failed_remotely(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        """The replica answers with an `ErrorHeader` (after four bytes) and perhaps a pickled exception."""

    def failed(self, error: Exception) -> None:
        """No replica answers: refused, unavailable, lost."""

    def started(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        """A streamed answer begins."""

    def piece(self, flags: int, payload: bytes | memoryview) -> None:
        """A piece of a streamed answer."""

    def ended(self) -> None:
        """A streamed answer is complete."""

    # From the wire.

    def on_response(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.settled = True
        link: ReplicaLink = self.link  # type: ignore[assignment]
        if self.sent_at:
            link.measured(monotonic() - self.sent_at)
        if self.submitted_at:
            self._note_latency()
        link.finished(header)
        self.answered(flags, header, payload)

    def on_error(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.settled = True
        self.link.finished(header)  # type: ignore[union-attr]
        self.failed_remotely(flags, header, payload)

    def on_start(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.responding = True
        self.started(flags, header, payload)

    def on_chunk(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.piece(flags, payload)

    def on_end(self, header: bytes) -> None:
        self.settled = True
        if self.submitted_at:
            self._note_latency()
        self.link.finished(header)  # type: ignore[union-attr]
        self.ended()

    def _note_latency(self, given_up: bool = False) -> None:
        latencies = self.router.latencies if self.router is not None else None
        if latencies is None:
            return
        seconds = monotonic() - self.submitted_at
        if given_up:
            latencies.given_up(seconds)
        else:
            latencies.answered(seconds)

    def on_reject(self, header: bytes) -> None:
        link, self.link = self.link, None
        self.attempts -= 1
        link.rejected(header)  # type: ignore[union-attr]
        self.router.requeue(self)  # type: ignore[union-attr]

    def on_lost(self, error: ConnectionLost) -> None:
        if self.settled:
            return
        link, self.link = self.link, None
        link.inflight -= 1  # type: ignore[union-attr]
        self.router.lost(self)  # type: ignore[union-attr]

    # From whoever waits for it.

    def cancel(self) -> bool:
        """Give up on it: it leaves the queue, or its replica is told. False where it was settled already."""
        if self.settled:
            return False
        self.settled = True
        if self.submitted_at:
            self._note_latency(given_up=True)
        link = self.link
        if link is not None:
            self.abandon()
            link.abandoned()
        elif self.router is not None:
            self.router.left_queue()
        return True

    def fail(self, error: Exception) -> None:
        """Settle it with an error of ours."""
        if not self.settled:
            self.settled = True
            self.failed(error)
