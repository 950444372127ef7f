"""Working a batch off, without a server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from headrace.llm.batch.lines import BatchRequest, BatchResponse
from headrace.llm.batch.output_file import OutputFile
from headrace.llm.batch.run import run_batch

REQUESTS = [BatchRequest(str(i), "/v1/completions", b"{}") for i in range(50)]
OK = BatchResponse(200, b"{}")


async def test_every_request_is_sent_once_and_never_more_at_a_time_than_allowed() -> None:
    sent: list[str] = []
    done: list[str] = []
    under_way, most = 0, 0

    async def send(request: BatchRequest) -> tuple[BatchResponse, float | None]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        sent.append(request.custom_id)
        under_way -= 1
        return OK, None

    await run_batch(REQUESTS, send, lambda request, _: done.append(request.custom_id), concurrency=7)
    assert sorted(sent) == sorted(done) == sorted(request.custom_id for request in REQUESTS)
    assert most == 7


async def test_what_is_refused_for_now_is_tried_again_after_the_time_that_the_server_names() -> None:
    tries: dict[str, int] = {}

    async def send(request: BatchRequest) -> tuple[BatchResponse, float | None]:
        tries[request.custom_id] = tries.get(request.custom_id, 0) + 1
        return (OK, None) if tries[request.custom_id] == 3 else (BatchResponse(429), 0.001)

    ended: list[BatchResponse] = []
    await run_batch(REQUESTS, send, lambda _, response: ended.append(response), concurrency=50)
    assert set(tries.values()) == {3}
    assert ended == [OK] * 50


async def test_what_is_refused_too_often_is_handed_over_as_it_came() -> None:
    async def send(request: BatchRequest) -> tuple[BatchResponse, float | None]:
        return BatchResponse(503), 0.0

    ended: list[BatchResponse] = []
    await run_batch(REQUESTS[:3], send, lambda _, response: ended.append(response), concurrency=1, attempts=2)
    assert [response.status_code for response in ended] == [503] * 3


async def test_a_request_that_is_wrong_is_not_tried_again() -> None:
    tries: list[str] = []

    async def send(request: BatchRequest) -> tuple[BatchResponse, float | None]:
        tries.append(request.custom_id)
        return BatchResponse(400), None

    await run_batch(REQUESTS, send, lambda *_: None, concurrency=4)
    assert len(tries) == len(REQUESTS)


async def test_an_output_that_cannot_be_written_ends_the_batch() -> None:
    async def send(request: BatchRequest) -> tuple[BatchResponse, float | None]:
        return OK, None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await run_batch(REQUESTS, send, full, concurrency=4)


def test_an_output_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with OutputFile(path) as output:
        output.append(REQUESTS[0], OK)
        output.append(REQUESTS[1], BatchResponse(0, error="no answer"))
        output.append(REQUESTS[2], BatchResponse(400, b"{}"))
        output.append(REQUESTS[3], OK)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])

    with OutputFile(path) as output:
        assert output.answered == {"0": 200, "2": 400}
        output.append(REQUESTS[1], OK)

    assert [line.split(b'"custom_id":"')[1][:1] for line in path.read_bytes().splitlines()] == [b"0", b"2", b"1"]
    assert list(tmp_path.iterdir()) == [path]
