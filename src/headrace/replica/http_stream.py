"""Streamed HTTP answers: their pieces become frames."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from headrace.replica.service import ReplicaService
from headrace.router.headers import encode, with_ongoing
from headrace.wire import frames
from headrace.wire.callee import ServerCall

LARGE_BODY = 4 * frames.PART_BYTES
"""Bodies from this many bytes on are sent in pieces, so that nobody holds all of them again."""

_PIECE = frames.PART_BYTES - 1024
_JOINED = 64 * 1024


class JoinedPieces:
    """Pieces of a stream that are there within one turn of the event loop travel in one frame."""

    __slots__ = ("_call", "_pieces", "_size")

    def __init__(self, call: ServerCall) -> None:
        self._call = call
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> bool:
        """Take a piece.

        Returns:
            Whether the caller should `await call.writable()` before it goes on.
        """
        pieces = self._pieces
        pieces.append(piece)
        self._size += len(piece)
        if self._size >= _JOINED:
            self.flush()
            return not self._call.is_writable
        if len(pieces) == 1:
            self._call.connection.loop.call_soon(self.flush)
            return not self._call.is_writable
        return False

    def flush(self) -> None:
        """Send what is there."""
        pieces = self._pieces
        if pieces:
            self._pieces = []
            self._size = 0
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(data) <= _PIECE:
                self._call.chunk(0, data)
            else:
                view = memoryview(data)
                for position in range(0, len(view), _PIECE):
                    self._call.chunk(0, bytes(view[position : position + _PIECE]))


async def send_large(call: ServerCall, body: bytes | memoryview) -> None:
    """Send a large body in pieces, as the receiver takes them."""
    view = memoryview(body)
    for position in range(0, len(view), _PIECE):
        if not call.is_writable:
            await call.writable()
        call.chunk(0, bytes(view[position : position + _PIECE]))


def end_stream(service: ReplicaService, call: ServerCall) -> None:
    """End a stream. The caller hears of the free place now; it becomes free within this loop turn."""
    call.end(with_ongoing(max(0, service.ongoing - 1)))


class AsgiSender:
    """An ASGI `send` whose messages become frames: one, where the whole body is there at once."""

    __slots__ = ("_call", "_head", "_pieces", "_service", "complete", "started")

    def __init__(self, service: ReplicaService, call: ServerCall) -> None:
        self._service = service
        self._call = call
        self._pieces = JoinedPieces(call)
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.started = False
        self.complete = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._head = (message["status"], [(bytes(k), bytes(v)) for k, v in message.get("headers", ())])
            return
        if kind != "http.response.body" or self.complete:
            return
        if self._head is None:
            raise RuntimeError("the ASGI application sent a body before http.response.start")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        call = self._call
        ongoing = self._service.ongoing
        if not self.started and not more and len(body) < LARGE_BODY:
            self.started = self.complete = True
            call.respond(0, with_ongoing(max(0, ongoing - 1), encode(self._head)), bytes(body))
            return
        if not self.started:
            self.started = True
            call.start(0, with_ongoing(ongoing, encode(self._head)))
        if len(body) >= LARGE_BODY:
            self._pieces.flush()
            await send_large(call, body)
        elif body and self._pieces.add(bytes(body)):
            await call.writable()
        if not more:
            self._pieces.flush()
            self.complete = True
            end_stream(self._service, call)
