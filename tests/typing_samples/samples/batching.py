"""`@serve.batch` and `@serve.multiplexed`, which need no plugin."""

# Each expectation is on the line of its code, however long that gets.
# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import reveal_type

import headrace as serve


class Model:
    @serve.batch
    async def bare(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.1)
    async def given(self, texts: Sequence[str]) -> Sequence[int]:
        return [len(text) for text in texts]

    @serve.batch
    def sync(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]

    @serve.batch
    async def stream(self, texts: list[str]) -> AsyncIterator[list[bytes]]:
        yield [b""]

    @serve.batch(max_batch_size=2)
    def sync_stream(self, texts: list[str]) -> Iterator[list[bytes]]:
        yield [b""]

    @serve.multiplexed
    async def load(self, model_id: str) -> float:
        return 0.0

    @serve.multiplexed(max_num_models_per_replica=1)
    def load_sync(self, model_id: str) -> float:
        return 0.0


@serve.batch(max_batch_size=3)
async def function(numbers: list[int]) -> list[str]:
    return [str(number) for number in numbers]


async def use(model: Model) -> None:
    reveal_type(await model.bare("a"))  # R: int
    reveal_type(await model.given("a"))  # R: int
    reveal_type(await model.sync("a"))  # R: int
    reveal_type(await function(1))  # R: str
    reveal_type(await Model.bare(model, "a"))  # R: int
    async for chunk in model.stream("a"):
        reveal_type(chunk)  # R: bytes
    async for chunk in model.sync_stream("a"):
        reveal_type(chunk)  # R: bytes
    reveal_type(await model.load("m"))  # R: float
    reveal_type(await model.load_sync("m"))  # R: float
    model.bare.set_max_batch_size(3)
    reveal_type(model.given.get_batch_wait_timeout_s())  # R: float
    await model.bare(["a"])  # E: Argument 1 to "__call__" of "BatchedFunction" has incompatible type "list[str]"; expected "str"
    await model.load(1)  # E: Argument 1 to "load" of "Model" has incompatible type "int"; expected "str"
    serve.batch(max_bach_size=3)  # E: Unexpected keyword argument "max_bach_size" for overloaded function "batch"; did you mean "max_batch_size"?
