"""A stream of pieces, with a look at its beginning and its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any


class WatchedStream(AsyncGenerator[bytes, None]):
    """Passes pieces on. No generator function: the end of one that was never begun would go unnoticed.

    Args:
        pieces: what to pass on.
        on_first: called with the first piece there.
        on_end: called once, when nothing more comes or the stream is closed.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], on_first: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._pieces = pieces
        self._on_first: Callable[[], None] | None = on_first
        self._on_end: Callable[[], None] | None = on_end

    async def __anext__(self) -> bytes:
        try:
            piece = await self._pieces.__anext__()
        except BaseException:
            self._ended()
            raise
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        return piece

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> bytes:
        self._ended()
        return await self._pieces.athrow(*error)

    async def aclose(self) -> None:
        self._ended()
        await self._pieces.aclose()

    def _ended(self) -> None:
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()
