"""Waiting for what a test expects, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is of the code under test, which has no event to offer
            await asyncio.sleep(0.001)


async def turns(count: int = 3) -> None:
    """Let the event loop turn, where nothing but the loop has to be waited for."""
    for _ in range(count):
        await asyncio.sleep(0)
