"""A stream of pieces, with a look at its beginning and its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any


class WatchedStream(AsyncGenerator[bytes, None]):
    """Passes pieces on. No generator function: the end of one that was never begun would go unnoticed.

    Args:
        pieces: what to pass on.
        on_first: called with the first piece there.
        on_end: called once, when nothing more comes: with None at the end, with the error where there was one, and with
            a `GeneratorExit` where the stream was closed before its end.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        on_first: Callable[[], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._pieces = pieces
        self._on_first: Callable[[], None] | None = on_first
        self._on_end: Callable[[BaseException | None], None] | None = on_end

    async def __anext__(self) -> bytes:
        try:
            piece = await self._pieces.__anext__()
        except StopAsyncIteration:
            self._ended(None)
            raise
        except BaseException as error:
            self._ended(error)
            raise
        if self._on_first is not None:
            self._on_first()
            self._on_first = None
        return piece

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> bytes:
        self._ended(error[0] if isinstance(error[0], BaseException) else GeneratorExit())
        return await self._pieces.athrow(*error)

    async def aclose(self) -> None:
        # First the pieces: what they took is counted when they have ended.
        try:
            await self._pieces.aclose()
        finally:
            self._ended(GeneratorExit())

    def _ended(self, error: BaseException | None) -> None:
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end(error)
