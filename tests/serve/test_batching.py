"""Batches of requests that come over HTTP and through handles, in real replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import BatchError


async def ask(instance: driver.Client, *requests: tuple[str, Any]) -> list[httpx.Response]:
    """The answers to POSTs that are sent at once: paths and JSON bodies."""
    async with httpx.AsyncClient(base_url=instance.http_url or "", timeout=30) as client:
        return list(await asyncio.gather(*(client.post(path, json=body) for path, body in requests)))


def test_a_full_batch_goes_at_once_whatever_the_timeout(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    class Model:
        @serve.batch(max_batch_size=8, batch_wait_timeout_s=600)
        async def __call__(self, numbers: list[int]) -> list[tuple[int, int]]:
            return [(2 * number, len(numbers)) for number in numbers]

    handle = serve.run(Model.bind())
    responses = [handle.remote(i) for i in range(24)]
    assert [response.result(timeout_s=20) for response in responses] == [(2 * i, 8) for i in range(24)]


async def test_handlers_may_take_a_batch_of_requests(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    class Model:
        @serve.batch(max_batch_size=4, batch_wait_timeout_s=600)
        async def __call__(self, requests: list[Request]) -> list[Any]:
            bodies = [await request.json() for request in requests]
            return [{"sum": sum(bodies), "own": body} for body in bodies]

    await asyncio.to_thread(serve.run, Model.bind())
    answers = await ask(instance, *(("/", i) for i in range(4)))
    assert [answer.json() for answer in answers] == [{"sum": 6, "own": i} for i in range(4)]


async def test_functions_can_be_batched(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    @serve.batch(max_batch_size=3, batch_wait_timeout_s=600)
    async def upper(texts: list[str]) -> list[str]:
        return [f"{text.upper()} of {len(texts)}" for text in texts]

    handle = await asyncio.to_thread(serve.run, upper.bind())
    assert await asyncio.gather(*(handle.remote(text) for text in "abc")) == ["A of 3", "B of 3", "C of 3"]
    answers = await ask(instance, *(("/", text) for text in "abc"))
    assert [answer.text for answer in answers] == ["A of 3", "B of 3", "C of 3"]


async def test_a_batch_that_raises_fails_its_own_requests_only(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    class Model:
        @serve.batch(max_batch_size=2, batch_wait_timeout_s=600, max_concurrent_batches=2)
        async def __call__(self, numbers: list[int]) -> list[int]:
            if -1 in numbers:
                raise ValueError("negative")
            return numbers

    handle = await asyncio.to_thread(serve.run, Model.bind())
    responses = [handle.remote(number) for number in (1, -1, 2, 3)]
    outcomes = await asyncio.gather(*responses, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError, int, int]
    assert 'raise ValueError("negative")' in str(outcomes[0].__cause__)
    answers = await ask(instance, ("/", -1), ("/", -1))
    assert [answer.status_code for answer in answers] == [500, 500]
    assert len({answer.json()["request_id"] for answer in answers}) == 2


def test_a_result_of_the_wrong_length_is_a_clear_error(http: httpx.Client) -> None:
    @serve.deployment
    class Model:
        @serve.batch(max_batch_size=2, batch_wait_timeout_s=0)
        async def __call__(self, numbers: list[int]) -> list[int]:
            return [*numbers, 0]

    with pytest.raises(BatchError, match=r"a list of length 2 for a batch of 1"):
        serve.run(Model.bind()).remote(1).result(timeout_s=10)


async def test_batches_can_stream(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    class Model:
        @serve.batch(max_batch_size=3, batch_wait_timeout_s=600)
        async def generate(self, lengths: list[int]) -> AsyncIterator[list[Any]]:
            for step in range(max(lengths)):
                yield [f"{step} " if step < length else StopIteration for length in lengths]

        async def __call__(self, request: Request) -> AsyncIterator[str]:
            async for token in self.generate(await request.json()):
                yield token

    handle = await asyncio.to_thread(serve.run, Model.bind())
    answers = await ask(instance, ("/", 1), ("/", 3), ("/", 2))
    assert [answer.text for answer in answers] == ["0 ", "0 1 2 ", "0 1 "]

    async def read(length: int) -> list[str]:
        return [token async for token in handle.options(stream=True).generate.remote(length)]

    assert await asyncio.gather(read(2), read(1), read(1)) == [["0 ", "1 "], ["0 "], ["0 "]]


async def test_sizes_change_at_run_time(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=100, user_config={"size": 2})
    class Model:
        def reconfigure(self, config: dict[str, int]) -> None:
            self.__call__.set_max_batch_size(config["size"])  # type: ignore[operator]

        @serve.batch(max_batch_size=50, batch_wait_timeout_s=600)
        async def __call__(self, numbers: list[int]) -> list[int]:
            return [len(numbers)] * len(numbers)

    handle = await asyncio.to_thread(serve.run, Model.bind())
    assert await asyncio.gather(*(handle.remote(i) for i in range(4))) == [2] * 4
    await asyncio.to_thread(serve.run, Model.options(user_config={"size": 4}).bind())
    assert await asyncio.gather(*(handle.remote(i) for i in range(4))) == [4] * 4


async def test_batches_never_mix_models(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(max_ongoing_requests=100)
    class Model:
        @serve.multiplexed(max_num_models_per_replica=2)
        async def load(self, model_id: str) -> str:
            return model_id.upper()

        @serve.batch(max_batch_size=2, batch_wait_timeout_s=600)
        async def __call__(self, numbers: list[int]) -> list[str]:
            model = await self.load(serve.get_multiplexed_model_id())
            return [f"{model} {number}" for number in numbers]

    await asyncio.to_thread(serve.run, Model.bind())
    async with httpx.AsyncClient(base_url=instance.http_url or "", timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/", json=i, headers={"serve_multiplexed_model_id": "ab"[i % 2]}) for i in range(8))
        )
    assert [answer.text for answer in answers] == [f"{'AB'[i % 2]} {i}" for i in range(8)]
