"""The lines of batch files."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.llm.batch.lines import (
    PATHS,
    BatchLineError,
    BatchRequest,
    BatchResponse,
    format_response,
    kept_answer,
    may_pass,
    parse_request,
    read_requests,
)

json_objects = st.dictionaries(
    st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5), max_size=4
)


def line(**fields: object) -> bytes:
    good = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}
    return json.dumps({**good, **fields}).encode()


@given(st.text(min_size=1), st.sampled_from(PATHS), json_objects)
def test_a_request_is_read_as_it_was_written(custom_id: str, url: str, body: dict[str, object]) -> None:
    request = parse_request(1, line(custom_id=custom_id, url=url, body=body))
    assert (request.custom_id, request.url, json.loads(request.body)) == (custom_id, url, body)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "Expected `object`"),
        (b"{}", "custom_id"),
        (line(custom_id=3), "custom_id"),
        (line(custom_id=""), "custom_id"),
        (line(method="GET"), "method"),
        (line(url="/v1/chat/completion"), "did you mean '/v1/chat/completions'?"),
        (line(body="model"), "body"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(wrong: bytes, said: str) -> None:
    with pytest.raises(BatchLineError, match=r"^line 7: ") as caught:
        parse_request(7, wrong)
    assert said in str(caught.value)


def test_a_custom_id_may_be_there_once_only() -> None:
    with pytest.raises(BatchLineError, match="line 3: custom_id: '1' is that of line 1 already"):
        list(read_requests([line(), b"\n", line()]))


@given(json_objects, st.integers(200, 499).filter(lambda status: not may_pass(status)))
def test_an_answer_is_known_again_in_the_output(body: dict[str, object], status: int) -> None:
    request = BatchRequest("a", PATHS[0], b"{}")
    written = format_response(request, BatchResponse(status, json.dumps(body, indent=2).encode(), "r1"))
    assert written.count(b"\n") == 1
    assert json.loads(written)["response"] == {"status_code": status, "request_id": "r1", "body": body}
    assert kept_answer(written) == ("a", status)


@given(st.integers(0, 200))
def test_a_line_that_is_broken_off_holds_no_answer(length: int) -> None:
    written = format_response(BatchRequest("a", PATHS[0], b"{}"), BatchResponse(200, b'{"text": "\xc3\xa4"}', "r1"))
    if length < len(written):
        assert kept_answer(written[:length]) is None


@pytest.mark.parametrize(
    "response",
    [BatchResponse(0, error="no answer"), BatchResponse(429, b"{}"), BatchResponse(503, b"<html>"), BatchResponse(500)],
)
def test_what_may_pass_is_asked_for_again(response: BatchResponse) -> None:
    assert kept_answer(format_response(BatchRequest("a", PATHS[0], b"{}"), response)) is None


def test_an_answer_that_is_no_json_is_kept_as_text() -> None:
    written = format_response(BatchRequest("a", PATHS[0], b"{}"), BatchResponse(404, b"<html>\n"))
    assert json.loads(written)["response"]["body"] == "<html>\n"
