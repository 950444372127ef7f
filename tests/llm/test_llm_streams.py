"""The small parts that streams go through on their way, by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.exceptions import ConfigError
from headrace.llm import LLMRequestError
from headrace.llm.engines.protocol import EngineResponse
from headrace.llm.latency_window import LatencyWindow
from headrace.llm.method_requests import WholeAnswer, answer_of, request_body
from headrace.llm.watched_stream import WatchedStream


async def pieces_of(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


class Seen:
    def __init__(self) -> None:
        self.first = 0
        self.ended = 0
        self.error: BaseException | None = None

    def watch(self, pieces: AsyncGenerator[bytes, None]) -> WatchedStream:
        return WatchedStream(pieces, self._first, self._end)

    def _first(self) -> None:
        self.first += 1

    def _end(self, error: BaseException | None) -> None:
        self.ended += 1
        self.error = error


async def test_a_watched_stream_tells_its_first_piece_and_its_end_once() -> None:
    seen = Seen()
    stream = seen.watch(pieces_of(b"a", b"b"))
    assert [piece async for piece in stream] == [b"a", b"b"]
    await stream.aclose()
    assert (seen.first, seen.ended) == (1, 1)


async def test_a_stream_that_was_never_begun_ends_too() -> None:
    seen = Seen()
    stream = seen.watch(pieces_of(b"a"))
    await stream.aclose()
    await stream.aclose()
    assert (seen.first, seen.ended) == (0, 1)


async def test_closing_a_watched_stream_closes_what_it_watches() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    seen = Seen()
    stream = seen.watch(source())
    assert await anext(stream) == b"a"
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert closed.is_set()
    assert seen.ended == 1


async def test_a_stream_that_fails_has_ended() -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ValueError("broken")

    seen = Seen()
    with pytest.raises(ValueError, match="broken"):
        _ = [piece async for piece in seen.watch(source())]
    assert seen.ended == 1


@given(st.lists(st.dictionaries(st.text(), st.text()), max_size=5), st.data())
def test_events_are_found_however_the_stream_is_cut(events: list[dict[str, str]], data: st.DataObject) -> None:
    whole = b"".join(b"event: x\ndata: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    whole += b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def read() -> list[Any]:
        answer = await answer_of(EngineResponse(200, pieces_of(*parts), "text/event-stream"))
        assert not isinstance(answer, WholeAnswer)
        return [event async for event in answer]

    assert asyncio.run(read()) == events


async def test_an_answer_that_came_at_once_is_a_stream_of_one() -> None:
    answer = await answer_of(EngineResponse(200, b'{"a": 1}'))
    assert answer == {"a": 1}
    assert [item async for item in answer] == [{"a": 1}]


async def test_an_error_is_raised_with_its_status() -> None:
    body = msgspec.json.encode({"error": {"message": "too long", "code": "context_length_exceeded"}})
    with pytest.raises(LLMRequestError, match="400: too long") as raised:
        await answer_of(EngineResponse(400, body))
    assert raised.value.error["code"] == "context_length_exceeded"


def test_a_request_without_a_model_is_for_the_one_that_there_is() -> None:
    assert msgspec.json.decode(request_body({"prompt": "x"}, "m")) == {"prompt": "x", "model": "m"}
    assert msgspec.json.decode(request_body({"model": "m:a"}, "m"))["model"] == "m:a"
    with pytest.raises(ConfigError, match="a request is a dict"):
        request_body("hello", "m")  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_one_of_the_latencies_with_as_many_below_it(latencies: list[float], share: float) -> None:
    window = LatencyWindow(clock=lambda: 0.0)
    for latency in latencies:
        window.add(latency)
    found = window.quantile(share)
    assert found in latencies
    assert sum(latency <= found for latency in latencies) >= share * len(latencies) - 1e-9


def test_latencies_are_forgotten_after_a_while() -> None:
    now = 0.0
    window = LatencyWindow(window_s=60, clock=lambda: now)
    window.add(1.0)
    now = 59.0
    window.add(2.0)
    assert window.quantile(1.0) == 2.0
    now = 61.0
    assert window.quantile(0.0) == 2.0
    now = 200.0
    assert window.quantile(0.5) is None
