"""Working a batch off: so many requests at a time, each until it is answered or has been refused too often."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from headrace.llm.batch.lines import BatchRequest, BatchResponse, may_pass

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

Send = Callable[[BatchRequest], Awaitable[tuple[BatchResponse, float | None]]]
"""Sends one request. Returns what came, and how many seconds the server asks to wait before the next try (None: it
says nothing). Does not raise for what may pass: that is a response with `error`."""


@dataclass(slots=True)
class BatchCounts:
    """How far a batch is, in requests."""

    total: int = 0
    completed: int = 0
    failed: int = 0


async def run_batch(
    requests: Iterable[BatchRequest],
    send: Send,
    done: Callable[[BatchRequest, BatchResponse], None],
    *,
    concurrency: int,
    attempts: int = 8,
) -> None:
    """Send every request and hand over what came, in the order in which it came.

    What is refused for now (429, 503, a lost connection) is tried again after the time that the server names, else
    after an exponentially growing one with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015). While one
    waits, it keeps its place, so that a server that is overloaded gets fewer requests.

    Args:
        requests: read as places become free, so that a large file is never in memory as a whole.
        send: one try.
        done: called once per request; what it raises ends the batch.
        concurrency: requests under way at a time, at least 1.
        attempts: tries per request, at least 1.
    """
    pending = iter(requests)

    async def work() -> None:
        # The iterator is shared, and is only moved between awaits: each request goes to one worker.
        for request in pending:
            done(request, await _until_answered(request, send, attempts))

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _until_answered(request: BatchRequest, send: Send, attempts: int) -> BatchResponse:
    pause_s = FIRST_PAUSE_S
    for attempt in range(1, attempts + 1):
        response, wait_s = await send(request)
        if attempt == attempts or not may_pass(response.status_code):
            break
        await asyncio.sleep(pause_s * random.random() if wait_s is None else min(wait_s, LONGEST_PAUSE_S))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return response
