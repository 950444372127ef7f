"""What a handler returns becomes an HTTP response."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import sys
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from headrace.exceptions import SerializationError
from headrace.replica.http import ASGIResult, EncodedResponse, StreamingResult, encode_result


class Colour(enum.Enum):
    RED = "red"


class Mood(enum.StrEnum):
    CALM = "calm"


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Score(BaseModel):
    label: str
    value: float = Field(alias="score")


class Opaque:
    pass


def complete(value: Any) -> EncodedResponse:
    response = encode_result(value)
    assert isinstance(response, EncodedResponse)
    return response


def content_type(response: EncodedResponse | StreamingResult) -> bytes:
    return dict(response.headers)[b"content-type"]


def decoded(value: Any) -> Any:
    response = complete(value)
    assert content_type(response) == b"application/json"
    return json.loads(bytes(response.body))


async def in_place(function: Callable[[], Any]) -> Any:
    return function()


async def streamed(value: Any) -> list[bytes]:
    result = encode_result(value)
    assert isinstance(result, StreamingResult)
    return [chunk async for chunk in result.chunks(in_place)]


def test_text_is_sent_as_utf8_plain_text() -> None:
    response = complete("grüß")
    assert (response.status, response.body) == (200, "grüß".encode())
    assert response.headers == [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"6")]


@pytest.mark.parametrize("value", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes_are_sent_as_they_are_with_the_content_type_of_ray_serve(value: Any) -> None:
    response = complete(value)
    assert (response.body, content_type(response)) == (b"\x00\xff", b"text/plain")


def test_none_is_an_empty_body() -> None:
    response = complete(None)
    assert (response.status, response.body, content_type(response)) == (200, b"", b"text/plain")
    assert (b"content-length", b"0") in response.headers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        ((1, "a"), [1, "a"]),
        (7, 7),
        (False, False),
        (2**70, 2**70),
        ({3}, [3]),
        (Point(1, 2.5), {"x": 1, "y": 2.5}),
        (Colour.RED, "red"),
        (datetime.date(2026, 1, 31), "2026-01-31"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.5"), 1.5),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (ValueError("bad"), "bad"),
        (collections.deque([1]), [1]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (range(3), [0, 1, 2]),
        (Score(label="good", score=0.5), {"label": "good", "score": 0.5}),
        ({"scores": [Score(label="good", score=0.5)]}, {"scores": [{"label": "good", "score": 0.5}]}),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        ({"embedding": np.array([0.5, 1.5], dtype=np.float32)}, {"embedding": [0.5, 1.5]}),
        ({np.int64(1): np.str_("one")}, {"1": "one"}),
        ({"lazily": (n for n in range(2))}, {"lazily": [0, 1]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_become_json(value: Any, expected: Any) -> None:
    assert decoded(value) == expected


def test_keys_become_text_as_json_dumps_writes_them() -> None:
    value = {1: "a", 2.5: "b", None: "d", Colour.RED: "e", uuid.UUID(int=1): "f"}
    assert decoded(value) == {
        "1": "a",
        "2.5": "b",
        "null": "d",
        "red": "e",
        "00000000-0000-0000-0000-000000000001": "f",
    }
    assert decoded({True: 1, False: 2}) == {"true": 1, "false": 2}
    assert decoded({True: 1, "lazily": iter([])}) == {"true": 1, "lazily": []}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan"), {1: math.nan, None: -math.inf}])
def test_nan_and_infinity_become_null(value: Any) -> None:
    text = bytes(complete(value).body)
    assert b"NaN" not in text and b"Infinity" not in text
    assert b"null" in text


def test_json_is_compact() -> None:
    assert complete({"a": [1, 2], "b": "ü"}).body == '{"a":[1,2],"b":"ü"}'.encode()
    assert complete({"a": iter([1, 2]), "b": "ü"}).body == '{"a":[1,2],"b":"ü"}'.encode()


def test_a_text_enum_is_text() -> None:
    assert complete(Mood.CALM).body == b"calm"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values))
def test_every_json_value_survives(value: dict[str, Any]) -> None:
    assert decoded(value) == value


@given(st.dictionaries(st.text(), json_values))
def test_the_slow_path_agrees_with_the_fast_one(value: dict[str, Any]) -> None:
    # An iterator is only read on the slow path.
    assert decoded({**value, "lazily": iter([1])}) == {**value, "lazily": [1]}


def test_an_iterator_is_not_lost_when_the_fast_path_fails_after_it() -> None:
    assert decoded({"lazily": (n for n in range(2)), "more": (n for n in range(1))}) == {"lazily": [0, 1], "more": [0]}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"model": Opaque()}, "result['model']: cannot turn <class"),
        ({"a": [1, {"b": Opaque()}]}, "result['a'][1]['b']: cannot turn"),
        ([Point(1, Opaque())], "result[0].y: cannot turn"),  # type: ignore[arg-type]
        (Opaque(), "result: cannot turn"),
        ({"kind": Opaque}, "result['kind']: cannot turn"),
        ({(1, 2): 3}, "result: the key (1, 2) is a tuple"),
        ({"text": "\ud800"}, "result['text']: this text is not valid Unicode"),
    ],
)
def test_the_error_names_the_part_that_cannot_be_serialised(value: Any, place: str) -> None:
    with pytest.raises(SerializationError) as caught:
        encode_result(value)
    assert place in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__, (
        "its traceback shows our inner workings"
    )


def test_text_that_is_no_unicode_is_a_clear_error() -> None:
    with pytest.raises(SerializationError, match="not valid Unicode"):
        encode_result("\ud800")


def test_a_value_that_contains_itself_is_a_clear_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SerializationError, match="contains itself"):
        encode_result({"loop": loop})


def test_numpy_is_not_imported_for_a_result() -> None:
    import subprocess

    code = (
        "import sys; from headrace.replica.http import encode_result; encode_result({'a': [1]}); "
        "sys.exit('numpy' in sys.modules or 'fastapi' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_response_keeps_its_status_headers_cookies_and_background_task() -> None:
    task = BackgroundTask(print)
    response = JSONResponse({"a": 1}, status_code=201, headers={"x-model": "v2"}, background=task)
    response.set_cookie("session", "abc")
    encoded = complete(response)
    assert (encoded.status, encoded.body, encoded.background) == (201, b'{"a":1}', task)
    names = [name for name, _ in encoded.headers]
    assert {b"x-model", b"set-cookie", b"content-type", b"content-length"} <= set(names)


def test_subclasses_that_only_render_otherwise_are_complete_responses() -> None:
    class Shouting(PlainTextResponse):
        def render(self, content: Any) -> bytes:
            return str(content).upper().encode()

    assert complete(Shouting("hi")).body == b"HI"
    assert dict(complete(RedirectResponse("/there")).headers)[b"location"] == b"/there"


def test_a_file_is_run_as_an_application(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    response = FileResponse(file)
    assert encode_result(response) == ASGIResult(response)


def test_a_response_with_its_own_call_is_run_as_an_application() -> None:
    class Server(PlainTextResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)

    assert isinstance(encode_result(Server("hi")), ASGIResult)


async def test_a_streaming_response_is_streamed_with_its_headers() -> None:
    async def tokens() -> AsyncIterator[str]:
        yield "data: a\n\n"
        yield "data: ü\n\n"

    result = encode_result(StreamingResponse(tokens(), status_code=202, media_type="text/event-stream"))
    assert isinstance(result, StreamingResult)
    assert (result.status, content_type(result)) == (202, b"text/event-stream; charset=utf-8")
    assert [chunk async for chunk in result.chunks(in_place)] == [b"data: a\n\n", "data: ü\n\n".encode()]


async def test_generators_are_streamed_and_their_pieces_encoded() -> None:
    def pieces() -> Iterator[Any]:
        yield "ü"
        yield b"\xff"
        yield ""
        yield {"token": 1}

    async def same() -> AsyncIterator[Any]:
        for piece in pieces():
            yield piece

    expected = ["ü".encode(), b"\xff", b'{"token":1}\n']
    assert await streamed(pieces()) == expected
    assert await streamed(same()) == expected
    result = encode_result(pieces())
    assert isinstance(result, StreamingResult)
    assert list(result.sync_chunks()) == expected


async def test_a_stream_that_is_left_early_closes_its_generator() -> None:
    closed: list[str] = []

    def sync_source() -> Iterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("sync")

    async def async_source() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append("async")

    for source in (sync_source(), async_source()):
        result = encode_result(source)
        assert isinstance(result, StreamingResult)
        chunks = result.chunks(in_place)
        assert await anext(chunks) == b"a"
        await chunks.aclose()  # type: ignore[attr-defined]
    assert closed == ["sync", "async"]

    result = encode_result(sync_source())
    assert isinstance(result, StreamingResult)
    pieces = result.sync_chunks()
    assert next(pieces) == b"a"
    pieces.close()  # type: ignore[attr-defined]
    assert closed == ["sync", "async", "sync"]


async def test_a_piece_that_cannot_be_serialised_is_a_clear_error() -> None:
    with pytest.raises(SerializationError, match="chunk: cannot turn"):
        await streamed(iter([Opaque()]))
