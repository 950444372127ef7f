"""The thread that runs the model: it alone touches model, batch and KV cache, so that the replica's loop stays free."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from headrace.llm.generation.batching.runner import BatchRunner, Logits
from headrace.llm.generation.batching.scheduler import PromptChunk, Scheduler
from headrace.llm.generation.batching.sequence import RunningSequence
from headrace.llm.generation.token_engine import GenerationFailedError, Step

logger = logging.getLogger(__name__)

# A failure may be of one batch; so many in a row are the model's.
_FAILURES_THAT_END = 3

Task = Callable[[], None]
Delivery = tuple[RunningSequence, Step | BaseException]


class ModelWorker:
    """Reads prompts and writes tokens, one step of the whole batch after the other.

    Attributes:
        error: what ended it; None while it works.
    """

    def __init__(
        self, runner: BatchRunner, loop: asyncio.AbstractEventLoop, *, max_sequences: int, prompt_tokens_per_step: int
    ) -> None:
        """
        Args:
            loop: where steps are delivered.
            max_sequences: in the batch.
            prompt_tokens_per_step: of prompts, read between two steps of those that write.
        """
        self.error: BaseException | None = None
        self._runner = runner
        self._loop = loop
        self._prompt_tokens_per_step = prompt_tokens_per_step
        self._scheduler = Scheduler(max_sequences, runner.move_row, runner.forget)
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._stopped = False
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name="headrace-model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    # Called on the event loop.

    @property
    def running(self) -> int:
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting_count + self._tasks.qsize()

    @property
    def tokens_held(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return sum(sequence.computed for sequence in list(self._scheduler.running))

    def add(self, sequence: RunningSequence, priority: int) -> None:
        """A new request; its steps are delivered from the next step of the batch on."""
        if self.error is not None or self._stopped:
            raise GenerationFailedError(f"The model does not run: {self.error or 'it was stopped'}")
        self._tasks.put(lambda: self._scheduler.add(sequence, priority))

    def cancel(self, sequence: RunningSequence) -> None:
        """Nobody reads it any more: it leaves before the next step."""
        sequence.cancelled = True
        self._tasks.put(_wake_up)

    async def call(self, function: Callable[[], Any], *, between_requests: bool = False) -> Any:
        """Run a function on the thread, between two steps.

        Args:
            between_requests: wait until the batch is empty; what arrives meanwhile waits.
        """
        if self.error is not None or not self._thread.is_alive():
            return function()
        done: asyncio.Future[Any] = self._loop.create_future()

        def task() -> None:
            try:
                if between_requests:
                    self._finish_running()
                result = function()
            except BaseException as error:
                self._loop.call_soon_threadsafe(_settle, done, None, error)
            else:
                self._loop.call_soon_threadsafe(_settle, done, result, None)

        self._tasks.put(task)
        return await done

    async def sleep(self, function: Callable[[], None]) -> None:
        """Finish what runs, call the function, and start nothing new until `wake`."""

        def fall_asleep() -> None:
            self._asleep = True
            function()

        await self.call(fall_asleep, between_requests=True)

    async def wake(self, function: Callable[[], None]) -> None:
        """Call the function and go on."""

        def wake() -> None:
            function()
            self._asleep = False

        await self.call(wake)

    async def stop(self) -> None:
        """End the thread; what is being generated ends with an error."""

        def end() -> None:
            self._stopped = True

        if self._thread.is_alive():
            self._tasks.put(end)
            await asyncio.to_thread(self._thread.join)

    # On the thread.

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopped:
                self._do_tasks()
                if not self._stopped and not self._asleep:
                    failures = self._guarded_step(failures)
        except BaseException as error:
            logger.exception("The model's thread ended")
            self.error = error
        self._fail_all()

    def _do_tasks(self) -> None:
        """All that is to do between two steps; waits for something where nothing runs."""
        idle = self._asleep or not self._scheduler.busy
        if not self._scheduler.running:
            # The batch was as long as its longest request; the next one may be short.
            self._runner.release()
        while not self._stopped:
            try:
                task = self._tasks.get(block=idle)
            except queue.Empty:
                return
            task()
            idle = self._asleep or not self._scheduler.busy

    def _guarded_step(self, failures: int) -> int:
        """A step; when it fails (out of memory, for one), what runs is given up, and only repeated failures end all.

        Args:
            failures: of the steps before, one after another.

        Returns:
            The same, with this step.
        """
        try:
            self._step()
        except Exception as error:
            if failures + 1 >= _FAILURES_THAT_END:
                raise
            logger.exception("A step of the model failed; the requests in the batch are given up")
            failed = GenerationFailedError(f"A step of the model failed: {error}")
            deliveries: list[Delivery] = [(sequence, failed) for sequence in self._scheduler.running]
            self._scheduler.clear()
            self._runner.release()
            self._loop.call_soon_threadsafe(_deliver, deliveries)
            return failures + 1
        return 0

    def _step(self) -> None:
        self._scheduler.remove_ended(lambda sequence: sequence.cancelled)
        budget = self._prompt_tokens_per_step
        while budget > 0:
            chunk = self._scheduler.next_chunk(budget)
            if chunk is None:
                break
            budget -= chunk.stop - chunk.start
            self._read(chunk)
        self._decode()

    def _finish_running(self) -> None:
        """Steps until the batch is empty; nobody joins."""
        while self._scheduler.running:
            self._scheduler.remove_ended(lambda sequence: sequence.cancelled)
            while self._scheduler.running and self._scheduler.running[-1].in_prompt:
                chunk = self._scheduler.next_chunk(self._prompt_tokens_per_step)
                assert chunk is not None
                self._read(chunk)
            self._decode()

    def _read(self, chunk: PromptChunk) -> None:
        sequence = chunk.sequence
        wanted = sequence.sampling.prompt_logprobs
        logits = self._runner.read_prompt(chunk, all_logits=wanted is not None)
        if wanted is not None:
            start = sequence.computed - len(logits)
            following = sequence.prompt[start + 1 : sequence.computed + 1]
            sequence.prompt_logprobs += self._runner.prompt_logprobs(logits, following, wanted)
        if not sequence.in_prompt:
            self._sample(logits[-1:], [sequence])

    def _decode(self) -> None:
        sequences = self._scheduler.writing()
        if sequences:
            self._sample(self._runner.next_logits(sequences), sequences)

    def _sample(self, logits: Logits, sequences: list[RunningSequence]) -> None:
        tokens, logprobs = self._runner.sample(logits, sequences)
        deliveries: list[Delivery] = []
        ended = set()
        for sequence, token_id, logprob in zip(sequences, tokens, logprobs, strict=True):
            step = sequence.append(token_id)
            if logprob is not None:
                step.logprobs = [logprob]
            if len(sequence.output) == 1 and sequence.sampling.prompt_logprobs is not None:
                step.prompt_logprobs = sequence.prompt_logprobs
            if step.finish_reason is not None:
                ended.add(id(sequence))
            deliveries.append((sequence, sequence.failure or step))
        if ended:
            self._scheduler.remove_ended(lambda sequence: id(sequence) in ended)
        self._loop.call_soon_threadsafe(_deliver, deliveries)

    def _fail_all(self) -> None:
        """Tell everyone who still waits."""
        while True:
            try:
                self._tasks.get_nowait()()
            except queue.Empty:
                break
        error = GenerationFailedError(f"The model's thread ended: {self.error}" if self.error else "It was stopped")
        left = list(self._scheduler.running)
        for waiting in self._scheduler.waiting.values():
            left += waiting
        if not self._loop.is_closed():
            deliveries: list[Delivery] = [(sequence, error) for sequence in left]
            self._loop.call_soon_threadsafe(_deliver, deliveries)


def _wake_up() -> None:
    """Nothing to do, but not to wait for."""


def _deliver(deliveries: list[Delivery]) -> None:
    for sequence, step in deliveries:
        sequence.deliver(step)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
