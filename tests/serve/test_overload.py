"""Ten times as many requests as a deployment can serve."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, NamedTuple

import httpx
import psutil

import headrace as serve
from headrace import client as driver

from .conditions import running

WORK_S = 0.25
ONGOING = 4
QUEUED = 8
CAPACITY = ONGOING / WORK_S  # requests per second
SECONDS = 3.0


@serve.deployment(max_ongoing_requests=ONGOING, max_queued_requests=QUEUED)
class Work:
    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(WORK_S)
        return "done"


class Answer(NamedTuple):
    status: int
    took_s: float
    retry_after: str | None


async def offer(url: str, per_second: float, seconds: float) -> list[Answer]:
    """Send so many requests per second, whether they are answered or not."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:

        async def one() -> Answer:
            began = time.monotonic()
            answer = await client.get("/")
            return Answer(answer.status_code, time.monotonic() - began, answer.headers.get("retry-after"))

        began = time.monotonic()
        tasks = []
        for index in range(int(per_second * seconds)):
            await asyncio.sleep(max(0.0, began + index / per_second - time.monotonic()))
            tasks.append(asyncio.create_task(one()))
        return await asyncio.gather(*tasks)


def memory(pids: list[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def test_at_ten_times_capacity_the_admitted_keep_their_latency_and_the_rest_are_refused_at_once(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Work.bind())
    url = str(http.base_url)
    asyncio.run(offer(url, CAPACITY / 2, 0.5))
    pids = [proxy.pid for proxy in instance.status().proxies if proxy.pid]
    pids += [replica.pid for replica in running("Work") if replica.pid]
    before = memory(pids)

    answers = asyncio.run(offer(url, 10 * CAPACITY, SECONDS))
    ended = time.monotonic()

    admitted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 503]
    assert len(admitted) + len(refused) == len(answers)
    # All of the capacity serves.
    assert len(admitted) >= 0.7 * CAPACITY * SECONDS
    # A full queue before it is the longest that an admitted one waits; the rest is a busy machine's and this client's.
    # Were nobody refused, the last would wait for half a minute.
    longest_s = WORK_S * (1 + QUEUED / ONGOING)
    assert statistics.quantiles([answer.took_s for answer in admitted], n=100)[94] < 8 * longest_s
    assert statistics.median(answer.took_s for answer in refused) < 4 * WORK_S
    assert all(answer.retry_after and int(answer.retry_after) >= 1 for answer in refused)
    assert memory(pids) - before < 32 * 1024 * 1024

    while True:  # normal again within a second
        began = time.monotonic()
        if http.get("/").status_code == 200 and time.monotonic() - began < 2 * WORK_S:
            break
        assert began < ended + 1.0
