"""The benchmark's applications in BentoML: `bentoml serve bentoml_api.py:NAME`, one process per service."""

# mypy: ignore-errors
# No postponed annotations here: BentoML reads the types of the API methods from them.
import asyncio
import os
from collections.abc import AsyncGenerator

import bentoml
import numpy as np

SERVICE = {"workers": 1, "logging": {"access": {"enabled": False}}}


@bentoml.service(**SERVICE)
class NoOp:
    @bentoml.api(route="/")
    async def answer(self) -> str:
        return "ok"


@bentoml.service(**SERVICE)
class NoOpSync:
    @bentoml.api(route="/")
    def answer(self) -> str:
        return "ok"


@bentoml.service(**SERVICE)
class Echo:
    @bentoml.api
    async def echo(self, text: str) -> str:
        return text


@bentoml.service(**SERVICE)
class Chain:
    echo = bentoml.depends(Echo)

    @bentoml.api(route="/")
    async def answer(self) -> str:
        return await self.echo.to_async.echo(text="ok")


@bentoml.service(**SERVICE)
class Square:
    @bentoml.api
    async def square(self, number: int) -> int:
        return number * number


@bentoml.service(**SERVICE)
class FanOut:
    square = bentoml.depends(Square)

    @bentoml.api(route="/")
    async def answer(self) -> str:
        squares = await asyncio.gather(*[self.square.to_async.square(number=number) for number in range(1, 5)])
        return " ".join(str(square) for square in squares)


@bentoml.service(**SERVICE)
class Stream:
    @bentoml.api(route="/")
    async def answer(self) -> AsyncGenerator[str, None]:
        for number in range(100):
            yield f'data: {{"token": "word{number}"}}\n\n'


@bentoml.service(**SERVICE)
class Measure:
    @bentoml.api
    async def measure(self, array: np.ndarray) -> str:
        return f"{array.nbytes} {array[0]} {array[-1]}"


@bentoml.service(**SERVICE)
class SendArray:
    measure = bentoml.depends(Measure)

    def __init__(self) -> None:
        self.array = np.resize(np.arange(251, dtype=np.uint8), int(os.environ["BENCH_SIZE"]))

    @bentoml.api(route="/")
    async def answer(self) -> str:
        return await self.measure.to_async.measure(array=self.array)


@bentoml.service(**SERVICE)
class Batch:
    # max_latency_ms stays at its default: it is the latency beyond which requests are refused, not the time that a
    # batch waits for more, which BentoML chooses by itself.
    @bentoml.api(route="/", batchable=True, max_batch_size=32)
    async def answer(self, x: list[float]) -> list[float]:
        return [2 * number for number in x]
