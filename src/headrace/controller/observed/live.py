"""Server-sent events of what happens in the instance, for as long as somebody listens.

All listeners are told the same bytes, made once. Each has what it has not taken yet, up to a bound; one that falls
behind by more is cut off, and may come again: the first event it gets then is the whole status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from headrace.controller.observed.sampler import Sampler

logger = logging.getLogger("headrace.controller")

TRANSPORT_KEY = "headrace.transport"
"""Where the server leaves the transport of a request in its scope, so that a stalled client's can be cut."""

STATUS_AT_MOST_EVERY_S = 0.5
STATUS_AT_LEAST_EVERY_S = 2.0
"""Some of a status changes by itself, such as for how long a replica has been starting."""

HEARTBEAT_S = 15.0
BEHIND_BYTES = 4 * 1024 * 1024
"""What a listener may have ahead of it besides one event, however large that is."""

_GONE_WITHIN_S = 1.0

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event(name: str, data: bytes) -> bytes:
    """A server-sent event; `data` is JSON on one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class Listener:
    """One client's events that it has not been sent yet.

    Attributes:
        ended: nothing more is to be sent. `cut_off`: because it takes nothing, or too slowly.
    """

    def __init__(self, behind_bytes: int = BEHIND_BYTES) -> None:
        self.ended = asyncio.Event()
        self.cut_off = False
        self._behind_bytes = behind_bytes
        self._events: deque[bytes] = deque()
        self._size = 0
        self._some = asyncio.Event()

    def tell(self, data: bytes) -> None:
        if self._events and self._size + len(data) > self._behind_bytes:
            self.cut_off = True
            self.ended.set()
            return
        self._events.append(data)
        self._size += len(data)
        self._some.set()

    async def next(self) -> bytes:
        """What is to be sent next: what has come, until `sent`; or a comment when nothing has for a while."""
        while not self._events:
            self._some.clear()
            try:
                await asyncio.wait_for(self._some.wait(), HEARTBEAT_S)
            except TimeoutError:
                return b": nothing new\n\n"
        return self._events[0]

    def sent(self) -> None:
        """The event that `next` has returned is on its way."""
        if self._events:
            self._size -= len(self._events.popleft())


class Live:
    """
    Args:
        sampler: makes the points.
        status: the instance's status as JSON.
        changed: waits until something may have changed since it last returned this number; see `Controller.changed`.
    """

    def __init__(
        self, sampler: Sampler, status: Callable[[], Awaitable[bytes]], changed: Callable[[int], Awaitable[int]]
    ) -> None:
        self._sampler = sampler
        self._status = status
        self._changed = changed
        self._listeners: set[Listener] = set()
        self._last_status = b""
        self._telling: asyncio.Task[None] | None = None
        self._closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one listener, as an ASGI application."""
        listener = Listener()
        self._join(listener)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        sending = asyncio.create_task(_send_all(listener, send))
        leaving = asyncio.create_task(_until_gone(receive))
        ending = asyncio.create_task(listener.ended.wait())
        try:
            await asyncio.wait((sending, leaving, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._listeners.discard(listener)
            sending.cancel()
            ending.cancel()
            if listener.cut_off and TRANSPORT_KEY in scope:
                # Closing would wait until the client has taken what it does not take.
                scope[TRANSPORT_KEY].abort()
                await asyncio.wait((leaving,), timeout=_GONE_WITHIN_S)
            leaving.cancel()
            await asyncio.wait((sending, leaving, ending))
        if listener.ended.is_set() and not listener.cut_off:
            await send({"type": "http.response.body", "body": b""})

    def _join(self, listener: Listener) -> None:
        if self._closed:
            listener.ended.set()
            return
        self._sampler.look()
        self._sampler.on_point = self._point
        self._listeners.add(listener)
        if self._telling is None:
            self._last_status = b""
            self._telling = asyncio.create_task(self._tell())
        elif self._last_status:
            listener.tell(self._last_status)

    async def _tell(self) -> None:
        """Tell of the status while there are listeners."""
        seen = 0
        try:
            while self._listeners:
                self._sampler.look()
                try:
                    self._tell_all_of(await self._status())
                except Exception:
                    logger.exception("listeners could not be told of the status")
                await asyncio.sleep(STATUS_AT_MOST_EVERY_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STATUS_AT_LEAST_EVERY_S - STATUS_AT_MOST_EVERY_S):
                        seen = await self._changed(seen)
        finally:
            self._telling = None

    def _tell_all_of(self, status: bytes) -> None:
        told = event("status", status)
        if told != self._last_status:
            self._last_status = told
            self._tell_all(told)

    def _point(self) -> None:
        if self._listeners:
            self._tell_all(event("point", msgspec.json.encode(self._sampler.fine.latest())))

    def _tell_all(self, data: bytes) -> None:
        for listener in self._listeners:
            listener.tell(data)

    def close(self) -> None:
        """End all streams, and those that come later at once."""
        self._closed = True
        for listener in self._listeners:
            listener.ended.set()
        if self._telling is not None:
            self._telling.cancel()


async def _send_all(listener: Listener, send: Send) -> None:
    while True:
        data = await listener.next()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        if not data.startswith(b":"):
            listener.sent()


async def _until_gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
