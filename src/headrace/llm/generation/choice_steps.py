"""The steps of several answers to one request, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace.llm.generation.token_engine import Step

Steps = AsyncGenerator[Step, None]
IndexedSteps = AsyncGenerator[list[tuple[int, Step]], None]


class ChoiceSteps:
    """Runs all choices at once and hands on what is ready. Closing `steps` ends those that still run."""

    def __init__(self, generators: Sequence[Steps]) -> None:
        self._generators = generators
        self._tasks: list[asyncio.Task[None]] = []

    def end(self, index: int) -> None:
        """A choice needs no further steps: a stop string was found."""
        if self._tasks:
            self._tasks[index].cancel()

    def steps(self) -> IndexedSteps:
        """Lists of the index of a choice and its step."""
        return self._one() if len(self._generators) == 1 else self._all()

    async def _one(self) -> IndexedSteps:
        # The reader stops reading where a stop string ends the only choice; that closes the generator.
        async with aclosing(self._generators[0]) as steps:
            async for step in steps:
                yield [(0, step)]

    async def _all(self) -> IndexedSteps:
        ready: asyncio.Queue[tuple[int, Step | BaseException | None]] = asyncio.Queue()

        async def pump(index: int) -> None:
            error: BaseException | None = None
            try:
                async with aclosing(self._generators[index]) as steps:
                    async for step in steps:
                        ready.put_nowait((index, step))
            except Exception as raised:
                error = raised
            finally:
                ready.put_nowait((index, error))

        self._tasks = [asyncio.create_task(pump(index)) for index in range(len(self._generators))]
        running = len(self._tasks)
        try:
            while running:
                batch = [await ready.get()]
                while not ready.empty():
                    batch.append(ready.get_nowait())
                steps = []
                for index, item in batch:
                    if isinstance(item, Step):
                        steps.append((index, item))
                    elif item is None:
                        running -= 1
                    else:
                        raise item
                if steps:
                    yield steps
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
