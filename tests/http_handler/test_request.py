"""The request that a handler gets, and its way to another deployment."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import pytest
from starlette.requests import Request

from headrace.exceptions import SerializationError
from headrace.replica.http import request_from
from headrace.router.http_request import freeze_request, is_request, needs_freezing


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": "/analyze/deep",
        "root_path": "/analyze",
        "query_string": b"a=1",
        "headers": [(b"content-type", b"application/json"), (b"cookie", b"k=v")],
        "client": ("1.2.3.4", 5),
        "server": ("localhost", 8000),
        "http_version": "1.1",
        **changes,
    }


def receiving(*chunks: bytes) -> Any:
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return receive


async def test_a_body_at_hand_is_read_without_receiving() -> None:
    request = request_from(scope(), b'{"text": "hi"}')
    assert type(request) is Request
    assert await request.json() == {"text": "hi"}
    assert b"".join([chunk async for chunk in request.stream()]) == await request.body()
    assert not await request.is_disconnected()


async def test_a_form_at_hand_is_parsed_without_receiving() -> None:
    request = request_from(scope(headers=[(b"content-type", b"application/x-www-form-urlencoded")]), b"a=1&b=2")
    assert dict(await request.form()) == {"a": "1", "b": "2"}


async def test_a_body_that_is_still_to_come_is_received() -> None:
    request = request_from(scope(), None, receiving(b"ab", b"cd"))
    assert [chunk async for chunk in request.stream() if chunk] == [b"ab", b"cd"]


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
async def test_a_request_is_pickled_with_its_body_and_without_the_process(dumps: Any) -> None:
    sent = request_from(scope(app=object(), router=lambda: None, state={"lock": object()}, extensions={}), b"[1]")
    arrived: Request = pickle.loads(dumps(sent))
    assert type(arrived) is Request
    assert await arrived.json() == [1]
    assert (arrived.method, arrived.url.path, arrived.query_params["a"]) == ("POST", "/analyze/deep", "1")
    assert (arrived.headers["content-type"], arrived.cookies, arrived.client) == (
        "application/json",
        {"k": "v"},
        sent.client,
    )
    assert "app" not in arrived.scope


async def test_freezing_reads_the_body_so_that_the_request_can_travel() -> None:
    request = request_from(scope(), None, receiving(b"[1,", b"2]"))
    assert is_request(request) and needs_freezing(request)
    with pytest.raises(SerializationError, match=r"await request\.body\(\)"):
        pickle.dumps(request)
    assert await freeze_request(request) is request
    assert not needs_freezing(request)
    assert await pickle.loads(pickle.dumps(request)).json() == [1, 2]


async def test_a_request_of_a_subclass_travels_as_a_plain_one() -> None:
    class Special(Request):
        pass

    frozen = await freeze_request(Special(scope(), receiving(b"x")))
    assert type(frozen) is Request
    assert await pickle.loads(pickle.dumps(frozen)).body() == b"x"


async def test_a_request_whose_stream_was_consumed_says_so() -> None:
    request = request_from(scope(), None, receiving(b"x"))
    async for _ in request.stream():
        pass
    with pytest.raises(SerializationError, match="already consumed"):
        await freeze_request(request)


def test_other_values_need_no_freezing() -> None:
    assert not needs_freezing({"a": 1}) and not is_request("text")
