"""Counting what requests use by what passes by."""

from __future__ import annotations

import json

import pytest

from headrace.llm.api.request_fields import read_fields
from headrace.llm.api.token_usage import TokenCount, estimated_tokens

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}\n\n'
TOLD = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"


def count_of(path: str, body: bytes) -> TokenCount:
    return TokenCount(path, body, read_fields(body))


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ("", True),
        (',"stream_options":null', True),
        (',"stream_options":{"include_usage":false}', True),
        (',"stream_options":{"continuous_usage_stats":false}', True),
        (',"stream_options":{"include_usage":true}', False),
    ],
)
def test_a_stream_is_made_to_tell_and_the_client_gets_what_it_asked_for(given: str, hidden: bool) -> None:
    body = f'{{"model":"m","messages":[],"stream":true{given}}}'.encode()
    count = count_of("/v1/chat/completions", body)
    asked = json.loads(count.body)
    assert asked["stream_options"]["include_usage"] is True
    assert {**asked, "stream_options": 0} == {**json.loads(body), "stream_options": 0}
    passed = b"".join(count.piece(piece) for piece in (CHUNK, CHUNK + TOLD, DONE))
    assert passed == CHUNK + CHUNK + (b"" if hidden else TOLD) + DONE
    assert count.used == 12


def test_a_body_that_need_not_change_keeps_its_bytes() -> None:
    body = b'{ "model":"m", "messages":[],"stream":true,"stream_options":{"include_usage":true}}'
    assert count_of("/v1/chat/completions", body).body is body
    body = b'{ "model":"m", "messages":[] }'
    assert count_of("/v1/chat/completions", body).body is body


def test_words_of_the_model_about_usage_are_no_usage() -> None:
    body = b'{"model":"m","messages":[],"stream":true}'
    count = count_of("/v1/chat/completions", body)
    event = b'data: {"choices":[{"delta":{"content":"{\\"usage\\": {\\"prompt_tokens\\": 9}}"}}]}\n\n'
    assert count.piece(event) == event
    assert count.used == 2  # one for "[]" and one event


def test_a_stream_that_breaks_off_counts_its_prompt_and_its_events() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "stream": True}).encode()
    count = count_of("/v1/chat/completions", body)
    for _ in range(3):
        count.piece(CHUNK + CHUNK)
    assert 106 <= count.used <= 130


@pytest.mark.parametrize(
    ("path", "answer", "used"),
    [
        ("/v1/chat/completions", b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}', 7),
        ("/v1/embeddings", b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', 3),
        ("/v1/responses", b'{"usage":{"input_tokens":3,"output_tokens":6,"total_tokens":9}}', 9),
        ("/v1/messages", b'{"usage":{"input_tokens":3,"output_tokens":6}}', 9),
        ("/v1/rerank", b'{"usage":{"total_tokens":11}}', 12),
        ("/tokenize", b'{"tokens":[1]}', 0),
    ],
)
def test_whole_answers_tell(path: str, answer: bytes, used: int) -> None:
    count = count_of(path, b'{"model":"m","input":"","stream":false}')
    count.whole(answer, 200)
    assert count.used == used


def test_a_refused_request_has_used_nothing() -> None:
    count = count_of("/v1/chat/completions", b'{"model":"m","messages":["long"]}')
    count.whole(b'{"error":{}}', 400)
    assert count.used == 0


def test_streams_of_messages_and_responses_tell_by_themselves() -> None:
    count = count_of("/v1/messages", b'{"model":"m","messages":[],"stream":true}')
    start = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":8,"output_tokens":1}}}\n\n'
    end = b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":20}}\n\n'
    assert count.piece(start) + count.piece(end) == start + end
    assert count.used == 28
    count = count_of("/v1/responses", b'{"model":"m","input":"","stream":true}')
    done = b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":2,"output_tokens":3}}}\n\n'
    assert count.piece(done) == done
    assert count.used == 5


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({}, 26),
        ({"max_tokens": 100}, 126),
        ({"max_completion_tokens": 50, "max_tokens": 100, "n": 2}, 126),
        ({"max_tokens": "many"}, 26),
    ],
)
def test_the_estimate_is_the_prompt_and_the_longest_answer(more: dict[str, object], tokens: int) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 98, **more}).encode()
    assert estimated_tokens("/v1/completions", read_fields(body)) == tokens


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": "A" * 100_000}},
    ],
)
def test_the_bytes_of_pictures_and_sound_are_no_text(part: dict[str, object]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "x" * 4000}, part]}]
    body = json.dumps({"model": "m", "messages": messages}).encode()
    assert 1000 <= estimated_tokens("/v1/chat/completions", read_fields(body)) <= 1100
