"""Requests that go on while something changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx

from .conditions import until


async def under_load(url: str, change: Callable[[], object], connections: int = 6) -> list[tuple[int, str]]:
    """The answers to POSTs, which nothing may repeat, over kept and over new connections, while `change` happens."""
    answers: list[tuple[int, str]] = []
    done = False
    limits = httpx.Limits(max_connections=connections)

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.post("/", content=b"x")
        answers.append((answer.status_code, answer.text))

    async def keep_asking(client: httpx.AsyncClient) -> None:
        while not done:
            await ask(client)

    async def ask_anew() -> None:
        while not done:
            async with httpx.AsyncClient(base_url=url, timeout=20) as client:
                await ask(client)

    async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client, asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(keep_asking(client))
        group.create_task(ask_anew())
        await asyncio.to_thread(until, lambda: len(answers) >= 20)
        await asyncio.to_thread(change)
        seen = len(answers)
        await asyncio.to_thread(until, lambda: len(answers) >= seen + 20)
        done = True
    return answers
