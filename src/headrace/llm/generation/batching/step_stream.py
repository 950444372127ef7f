"""From the model's thread to one reader: steps that are ready leave as one."""

from __future__ import annotations

import asyncio

from headrace.llm.generation.token_engine import Step


class StepStream:
    """Used on the event loop alone."""

    __slots__ = ("_reader", "_ready")

    def __init__(self) -> None:
        self._ready: list[Step | BaseException] = []
        self._reader: asyncio.Future[None] | None = None

    def put(self, step: Step | BaseException) -> None:
        """A new step, or what ended the answer."""
        self._ready.append(step)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def next(self) -> Step:
        """All that is ready, at least one step.

        Raises:
            GenerationFailedError: the engine gave up.
        """
        if not self._ready:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        ready, self._ready = self._ready, []
        return _merged(ready)


def _merged(ready: list[Step | BaseException]) -> Step:
    first = ready[0]
    if isinstance(first, BaseException):
        raise first
    for step in ready[1:]:
        if isinstance(step, BaseException):
            raise step
        first.token_ids += step.token_ids
        if first.logprobs is not None and step.logprobs is not None:
            first.logprobs += step.logprobs
        first.finish_reason = step.finish_reason
        first.ended_by_token = step.ended_by_token
    return first
