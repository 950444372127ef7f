"""The three shapes in which a handler's result leaves a replica over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeAlias

import msgspec
from starlette.background import BackgroundTask
from starlette.types import ASGIApp

from .json_encoding import encode_json

Headers: TypeAlias = list[tuple[bytes, bytes]]
InThread: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]

_END = object()


class EncodedResponse(msgspec.Struct):
    """A complete answer. A struct because it is made once per request: creation costs a tenth of a dataclass's.

    Attributes:
        status: HTTP status code.
        headers: names in lower case, among them `content-length` where the status allows a body.
        body: the whole body. A `memoryview` where the handler answered with one; everything else is `bytes`.
        background: what to await once the response has been sent.
    """

    status: int
    headers: Headers
    body: bytes | memoryview
    background: BackgroundTask | None = None


class StreamingResult(msgspec.Struct):
    """An answer that comes in pieces, from a generator or a `StreamingResponse`.

    `source` is iterated once, by `chunks`. There is no content length, so the server sends it chunked.
    """

    status: int
    headers: Headers
    source: AsyncIterable[Any] | Iterable[Any]
    background: BackgroundTask | None = None
    charset: str = "utf-8"

    @property
    def is_async(self) -> bool:
        return hasattr(self.source, "__aiter__")

    async def chunks(self, in_thread: InThread) -> AsyncIterator[bytes]:
        """The pieces as bytes. Empty ones are left out: some servers take an empty chunk for the end.

        Args:
            in_thread: runs a blocking function elsewhere and returns its result. The steps of a synchronous generator
                go through it, so that they never block the event loop.

        Raises:
            SerializationError: a piece is not bytes, text or JSON-able; or whatever the source raises.
        """
        charset = self.charset
        if isinstance(self.source, AsyncIterable):
            async_iterator = aiter(self.source)
            try:
                async for piece in async_iterator:
                    if chunk := piece if type(piece) is bytes else _encode_piece(piece, charset):
                        yield chunk
            finally:
                aclose = getattr(async_iterator, "aclose", None)
                if aclose is not None:
                    await aclose()
        else:
            iterator = iter(self.source)
            try:
                while (piece := await in_thread(lambda: next(iterator, _END))) is not _END:
                    if chunk := _encode_piece(piece, charset):
                        yield chunk
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    await in_thread(close)

    def sync_chunks(self) -> Iterator[bytes]:
        """The pieces of a synchronous source, for a caller that is on a worker thread already.

        Raises:
            TypeError: the source is asynchronous.
        """
        if isinstance(self.source, AsyncIterable):
            raise TypeError("sync_chunks() needs a synchronous source; iterate chunks() instead")
        try:
            for piece in self.source:
                if chunk := _encode_piece(piece, self.charset):
                    yield chunk
        finally:
            # Here and now, and so on this thread, not when the last reference happens to go.
            close = getattr(self.source, "close", None)
            if close is not None:
                close()


class ASGIResult(msgspec.Struct):
    """An answer that has to be run as an ASGI application: `await app(scope, receive, send)`."""

    app: ASGIApp


Result: TypeAlias = EncodedResponse | StreamingResult | ASGIResult


def _encode_piece(piece: Any, charset: str) -> bytes:
    if isinstance(piece, str):
        return piece.encode(charset)
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, bytearray | memoryview):
        return bytes(piece)
    return encode_json(piece, "chunk") + b"\n"
