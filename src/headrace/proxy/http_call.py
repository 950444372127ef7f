"""An HTTP request on its way through the router, and what comes back, gathered for the ASGI side."""

from __future__ import annotations

import asyncio
import logging

from headrace.exceptions import RequestCancelledError, RequestTimeoutError
from headrace.router.call import RoutedCall
from headrace.router.headers import decode_error

logger = logging.getLogger("headrace.proxy")


class HttpCall(RoutedCall):
    """
    Attributes:
        begun: done when the answer's header is there, or with the error that came instead.
        whole: the answer is complete in `head` and `body`.
        head: the answer's header, without the router's part.
    """

    __slots__ = (
        "_body_waiter",
        "_chunks",
        "_ended",
        "_error",
        "_loop",
        "_waiter",
        "begun",
        "body",
        "head",
        "request_id",
        "timer",
        "whole",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flags: int,
        header: bytes,
        payload: bytes,
        method: str = "__call__",
        multiplexed_model_id: str = "",
        session_id: str = "",
        retryable: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(flags, header, payload, method, multiplexed_model_id, session_id, retryable)
        self._loop = loop
        self.request_id = request_id
        self.begun: asyncio.Future[None] = loop.create_future()
        self.whole = False
        self.head = b""
        self.body: bytes | memoryview = b""
        self.timer: asyncio.TimerHandle | None = None
        self._chunks: list[bytes | memoryview] = []
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._body_waiter: asyncio.Future[None] | None = None

    # From the router.

    def answered(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self._wake_body()
        self.whole = True
        self.head = header[4:]
        self.body = payload
        if not self.begun.done():
            self.begun.set_result(None)

    def started(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.head = header[4:]
        if not self.begun.done():
            self.begun.set_result(None)

    def piece(self, flags: int, payload: bytes | memoryview) -> None:
        self._chunks.append(payload)
        self._wake()

    def ended(self) -> None:
        self._ended = True
        self._wake_body()
        self._wake()

    def failed_remotely(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        described = decode_error(header[4:])
        error = RuntimeError(f"{described.kind}: {described.message}")
        self.failed(RequestTimeoutError(described.message) if described.kind == "timeout" else error)

    def failed(self, error: Exception) -> None:
        self._error = error
        self._wake_body()
        if not self.begun.done():
            self.begun.set_exception(error)
            self.begun.exception()
        self._wake()

    def on_credit(self) -> None:
        self._wake_body()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_body(self) -> None:
        if self._body_waiter is not None and not self._body_waiter.done():
            self._body_waiter.set_result(None)

    # From the ASGI side.

    def client_left(self) -> None:
        """The client hung up: the work is cancelled all the way down."""
        if self.cancel():
            self.failed(RequestCancelledError())

    def expire(self) -> None:
        """The deadline has passed."""
        if self.cancel():
            self.failed(RequestTimeoutError("the request was not answered within its time limit"))

    async def chunks(self) -> bytes | memoryview | None:
        """What has come of a streamed body since the last call, joined; None at its end.

        Raises:
            Exception: the stream broke off.
        """
        while True:
            if self._chunks:
                chunks, self._chunks = self._chunks, []
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                for chunk in chunks:
                    self.took(len(chunk))
                return data
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter

    @property
    def complete(self) -> bool:
        """Whether nothing more will come beyond what `chunks` would return at once."""
        return self._ended and not self._chunks

    async def writable(self) -> bool:
        """Wait until the replica takes more of the body; False where it wants none any more."""
        while self.send_window <= 0:
            if self.settled:
                return False
            self._body_waiter = self._loop.create_future()
            await self._body_waiter
        if self.connection is not None:
            await self.connection.drain()
        return not self.settled
