"""`@serve.batch` on async generators: each `yield` is a list with one element per request."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headrace.batching import batch
from headrace.exceptions import BatchError

from .conditions import until


class Generator:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.yields = 0
        self.ended: list[str] = []
        self.gate = asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=0.02)
    async def countdown(self, starts: list[int]) -> AsyncGenerator[list[object], None]:
        """A request is finished when its count is at zero."""
        self.batches.append(starts)
        try:
            for step in range(max(starts)):
                self.yields += 1
                yield [start - step if start > step else StopIteration for start in starts]
            self.ended.append("by itself")
        except GeneratorExit:
            self.ended.append("closed")
            raise

    @batch(max_batch_size=2, batch_wait_timeout_s=0.02)
    async def gated(self, items: list[int]) -> AsyncGenerator[list[int], None]:
        try:
            yield items
            await self.gate.wait()
            yield items
        except (GeneratorExit, asyncio.CancelledError) as error:
            self.ended.append(type(error).__name__)
            raise


async def collect(stream: AsyncGenerator[object, None]) -> list[object]:
    return [element async for element in stream]


async def test_each_caller_gets_a_stream_of_its_own_elements() -> None:
    generator = Generator()
    assert await asyncio.gather(collect(generator.countdown(3)), collect(generator.countdown(3))) == [
        [3, 2, 1],
        [3, 2, 1],
    ]
    assert generator.batches == [[3, 3]]
    assert generator.ended == ["by itself"]


async def test_stop_iteration_ends_one_stream_and_the_others_go_on() -> None:
    generator = Generator()
    assert await asyncio.gather(collect(generator.countdown(1)), collect(generator.countdown(3))) == [[1], [3, 2, 1]]


async def test_elements_arrive_while_the_generator_still_works() -> None:
    generator = Generator()
    async with aclosing(generator.gated(1)) as stream:
        assert await anext(stream) == 1
        generator.gate.set()
        assert await anext(stream) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_an_endless_generator_is_closed_when_all_its_streams_have_ended() -> None:
    closed = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0.02)
    async def endless(items: list[int]) -> AsyncGenerator[list[object], None]:
        try:
            yield list(items)
            while True:
                yield [StopIteration, StopAsyncIteration]
        finally:
            closed.append(True)

    assert await asyncio.gather(collect(endless(1)), collect(endless(2))) == [[1], [2]]
    await until(lambda: closed)


async def test_a_reader_that_goes_away_leaves_the_others_their_streams() -> None:
    generator = Generator()
    leaver, stayer = generator.gated(1), generator.gated(2)
    assert await asyncio.gather(anext(leaver), anext(stayer)) == [1, 2]
    await leaver.aclose()
    generator.gate.set()
    assert await collect(stayer) == [2]
    assert generator.ended == []


async def test_a_generator_without_readers_is_cancelled() -> None:
    generator = Generator()
    streams = [generator.gated(1), generator.gated(2)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    for stream in streams:
        await stream.aclose()
    await until(lambda: generator.ended)
    assert generator.ended == ["CancelledError"]
    await until(lambda: not generator.gated.is_running())


async def test_a_generator_that_raises_fails_each_stream_after_its_elements() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=0.02)
    async def breaks(items: list[int]) -> AsyncGenerator[list[object], None]:
        yield list(items)
        yield [StopIteration, items[1]]
        raise ValueError("broke")

    async def read(item: int) -> tuple[list[object], BaseException | None]:
        elements: list[object] = []
        try:
            async for element in breaks(item):
                elements.append(element)
        except ValueError as error:
            return elements, error
        return elements, None

    (finished, no_error), (elements, error) = await asyncio.gather(read(1), read(2))
    assert (finished, no_error) == ([1], None)
    assert elements == [2, 2]
    assert str(error) == "broke"


async def test_a_yield_of_the_wrong_length_fails_every_stream_with_a_clear_error() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=0.02)
    async def short(items: list[int]) -> AsyncGenerator[list[int], None]:
        yield items[:1]

    results = await asyncio.gather(collect(short(1)), collect(short(2)), return_exceptions=True)
    assert results[0] is not results[1]
    for error in results:
        assert isinstance(error, BatchError)
        assert "short yielded a list of length 1 for a batch of 2, expected length 2" in str(error)


async def test_a_reader_cancelled_before_the_batch_starts_is_not_in_it() -> None:
    generator = Generator()
    leaver = asyncio.create_task(collect(generator.countdown(1)))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await collect(generator.countdown(2)) == [2, 1]
    assert generator.batches == [[2]]


def test_inspect_takes_it_for_an_async_generator() -> None:
    assert inspect.isasyncgenfunction(Generator.countdown)

    async def made() -> Generator:
        return Generator()

    assert inspect.isasyncgenfunction(asyncio.run(made()).countdown)
