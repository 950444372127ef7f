"""Batches under way: each from its input file to its output files, across restarts of this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from headrace.llm.batch.lines import (
    BatchLineError,
    BatchRequest,
    BatchResponse,
    answer_status,
    read_requests,
)
from headrace.llm.batch.output_file import OutputFile
from headrace.llm.batch.records import ENDED, BatchRecord, BatchState, LineProblem, LineProblems, RequestCounts
from headrace.llm.batch.run import Send, run_batch
from headrace.llm.batch.store import BatchStore

logger = logging.getLogger("headrace.llm")

MAX_REQUESTS = 50_000
"""In one batch; OpenAI's limit."""

_EXPIRED = BatchResponse(0, error="the batch's completion window ended before this request was sent")


class BatchRuns:
    """
    Args:
        store: where everything is kept.
        send: sends one request.
        concurrency: requests under way at a time, of all batches together; they take turns.
    """

    def __init__(self, store: BatchStore, send: Send, concurrency: int) -> None:
        self._store = store
        self._send = send
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._counts: dict[str, RequestCounts] = {}
        self._stopping = False
        self._in_charge = False

    def go_on(self) -> None:
        """This process is in charge from now on: take up what an earlier one has not finished."""
        self._in_charge = True
        for batch, owner in self._store.unfinished():
            self.begin(batch, owner)

    def begin(self, batch: BatchRecord, owner: str) -> None:
        """Start, or go on with, a batch that is in the store. Where another process is in charge still, it begins when
        this one is."""
        if not self._in_charge:
            return
        task = asyncio.create_task(self._work_off(batch, owner), name=f"batch {batch.id}")
        self._tasks[batch.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(batch.id, None))

    def counts(self, batch_id: str) -> RequestCounts | None:
        """How far a batch is that is under way; None for others, whose record says it."""
        return self._counts.get(batch_id)

    def cancel(self, batch: BatchRecord, owner: str) -> None:
        """End a batch; what is answered is kept. Does nothing to one that has ended."""
        if batch.status in ENDED or batch.status in ("cancelling", "finalizing"):
            return
        self._enter(batch, owner, "cancelling")
        task = self._tasks.get(batch.id)
        if task is not None:
            task.cancel()

    async def stop(self) -> None:
        """Leave everything as it is, to go on later."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work_off(self, batch: BatchRecord, owner: str) -> None:
        try:
            if batch.status == "validating" and not await self._validate(batch, owner):
                return
            if batch.status != "cancelling":
                await self._answer_all(batch, owner)
        except asyncio.CancelledError:
            if self._stopping:
                raise
            # Cancelled by the user: what there is becomes the output.
            batch = self._store.batch(batch.id, owner) or batch
        except Exception as error:
            logger.exception("batch %s cannot go on", batch.id)
            self._fail(batch, owner, LineProblem("internal_error", f"the batch cannot go on: {error}"))
            return
        await self._finish(batch, owner)

    async def _validate(self, batch: BatchRecord, owner: str) -> bool:
        try:
            total = await asyncio.to_thread(_check, self._store.content(batch.input_file_id), batch.endpoint)
        except BatchLineError as error:
            self._fail(batch, owner, LineProblem("invalid_request", error.message, error.line))
            return False
        except OSError as error:
            self._fail(batch, owner, LineProblem("file_not_found", f"the input file cannot be read: {error.strerror}"))
            return False
        batch.request_counts.total = total
        self._enter(batch, owner, "in_progress")
        return True

    async def _answer_all(self, batch: BatchRecord, owner: str) -> None:
        counts = batch.request_counts
        with (
            self._store.content(batch.input_file_id).open("rb") as lines,
            OutputFile(self._work_file(batch)) as output,
        ):
            counts.completed = sum(status < 300 for status in output.answered.values())
            counts.failed = len(output.answered) - counts.completed
            self._counts[batch.id] = counts

            def done(request: BatchRequest, response: BatchResponse) -> None:
                output.append(request, response)
                if response.succeeded:
                    counts.completed += 1
                else:
                    counts.failed += 1

            left = (request for request in read_requests(lines) if request.custom_id not in output.answered)
            try:
                async with asyncio.timeout(max(0.0, batch.expires_at - time.time())) as window:
                    await run_batch(left, self._in_turn, done, concurrency=self._concurrency)
            except TimeoutError:
                if not window.expired():
                    raise
                lines.seek(0)
                for request in read_requests(lines):
                    if request.custom_id not in output.answered:
                        done(request, _EXPIRED)
                batch.expired_at = int(time.time())
            finally:
                del self._counts[batch.id]

    async def _in_turn(self, request: BatchRequest) -> tuple[BatchResponse, float | None]:
        async with self._places:
            return await self._send(request)

    async def _finish(self, batch: BatchRecord, owner: str) -> None:
        """From the file of all answers to one of the good and one of the others. May run again after a crash."""
        was_cancelled = batch.status == "cancelling"
        if not was_cancelled:
            self._enter(batch, owner, "finalizing")
        work_file = self._work_file(batch)
        for kind, keep in (("output", _is_good), ("error", _is_bad)):
            file_id = f"file-{kind}-{batch.id}"
            if await asyncio.to_thread(_copy_lines, work_file, self._store.content(file_id), keep):
                self._store.add_file(file_id, f"{batch.id}_{kind}.jsonl", "batch_output", owner)
                setattr(batch, f"{kind}_file_id", file_id)
        ended: BatchState = "completed"
        if was_cancelled:
            ended = "cancelled"
        elif batch.expired_at is not None:
            ended = "expired"
        self._enter(batch, owner, ended)
        work_file.unlink(missing_ok=True)

    def _fail(self, batch: BatchRecord, owner: str, problem: LineProblem) -> None:
        batch.errors = LineProblems([problem])
        self._enter(batch, owner, "failed")

    def _enter(self, batch: BatchRecord, owner: str, state: BatchState) -> None:
        batch.status = state
        setattr(batch, f"{state}_at", int(time.time()))
        self._store.save_batch(batch, owner)

    def _work_file(self, batch: BatchRecord) -> Path:
        return self._store.content(f"{batch.id}.answers")


def _check(path: Path, endpoint: str) -> int:
    """How many requests a file has.

    Raises:
        BatchLineError: one of them is wrong, or there are too many, or none.
    """
    total = 0
    with path.open("rb") as lines:
        for request in islice(read_requests(lines), MAX_REQUESTS + 1):
            total += 1
            if request.url != endpoint:
                raise BatchLineError(total, f"url: must be the batch's endpoint {endpoint!r}, not {request.url!r}")
    if not total:
        raise BatchLineError(1, "the file holds no request")
    if total > MAX_REQUESTS:
        raise BatchLineError(total, f"a batch has at most {MAX_REQUESTS:,} requests; split the file")
    return total


def _is_good(line: bytes) -> bool:
    status = answer_status(line)
    return status is not None and status < 300


def _is_bad(line: bytes) -> bool:
    return not _is_good(line)


def _copy_lines(source: Path, target: Path, keep: Callable[[bytes], bool]) -> bool:
    """Returns whether there was any line to keep."""
    found = False
    if source.exists():
        with source.open("rb") as old, target.open("wb") as new:
            for line in old:
                if line.endswith(b"\n") and keep(line):
                    found = True
                    new.write(line)
        if not found:
            target.unlink()
    return found
