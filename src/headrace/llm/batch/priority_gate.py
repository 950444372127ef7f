"""Which of a replica's requests may begin: live ones always, those of batches while there is room beside them."""

from __future__ import annotations

import asyncio
from collections import deque


class PriorityGate:
    """Counts requests under way, and holds those of batches back. Used on one event loop.

    An engine that has taken a request does not give its place in the running batch away. So that a live request finds
    one at once, batches never fill more than `places`, together with what is live.

    Args:
        places: how many requests may be under way for another one of a batch to begin; at least 1.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def under_way(self) -> int:
        """How many requests have begun and not ended, live ones and those of batches."""
        return self._under_way

    def enter(self) -> None:
        """A live request begins."""
        self._under_way += 1

    def leave(self) -> None:
        """A request has ended, whichever way."""
        self._under_way -= 1
        while self._waiting and self._under_way < self._places:
            turn = self._waiting.popleft()
            if not turn.done():
                self._under_way += 1
                turn.set_result(None)

    async def enter_behind(self) -> None:
        """A request of a batch begins, when there is room for it: in the order in which they came."""
        if self._under_way < self._places and not self._waiting:
            self._under_way += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise
