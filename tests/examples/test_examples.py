"""Every example serves what its first lines say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.free_port import free_port
from websockets.asyncio.client import connect

import headrace as serve
from examples import ab_test, batch, fastapi_ingress, hello, multiplexing, streaming, typed_handler
from examples.pipeline import app as pipeline

APPLICATIONS = {
    "/hello": hello.app,
    "/typed": typed_handler.app,
    "/batch": batch.app,
    "/ab": ab_test.app,
    "/fastapi": fastapi_ingress.app,
    "/multiplexing": multiplexing.app,
    "/streaming": streaming.app,
    "/analyze": pipeline.app,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    serve.start(http_options={"port": port}, rest_options={"port": 0})
    try:
        for prefix, app in APPLICATIONS.items():
            serve.run(app, name=prefix.removeprefix("/"), route_prefix=prefix)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_hello_greets_by_name(client: httpx.Client) -> None:
    assert client.get("/hello", params={"name": "Ada"}).json() == {"message": "Hello from Headrace, Ada!"}


def test_the_typed_handler_computes_from_named_parameters(client: httpx.Client) -> None:
    answer = client.post("/typed", json={"principal": 1000, "rate_percent": 10, "years": 2})
    assert answer.json() == [{"year": 1, "amount": 1100.0}, {"year": 2, "amount": 1210.0}]


def test_the_typed_handler_names_the_wrong_field(client: httpx.Client) -> None:
    answer = client.post("/typed", json={"principal": "much", "rate_percent": 10})
    assert answer.status_code == 422
    assert "principal" in answer.text


def test_concurrent_requests_share_a_batch(client: httpx.Client) -> None:
    texts = ["Où est la gare ?", "Where is the tea?", "Wo ist der Tee?", "¿Dónde está el té?"] * 4
    with ThreadPoolExecutor(len(texts)) as threads:
        guesses = [answer.json() for answer in threads.map(lambda text: client.post("/batch", json=text), texts)]
    assert [guess["language"] for guess in guesses[:4]] == ["French", "English", "German", "Spanish"]
    assert max(guess["batch_size"] for guess in guesses) > 1


def test_both_models_of_the_ab_test_get_requests(client: httpx.Client) -> None:
    answers = [client.post("/ab", json={"text": "not bad"}).json()["model"] for _ in range(60)]
    assert set(answers) == {"stable", "experimental"}


def test_fastapi_routes_call_the_model(client: httpx.Client) -> None:
    assert client.post("/fastapi/sentiment", json={"text": "I love it"}).json()["score"] > 0.5
    assert client.get("/fastapi/words/splendid").json()["score"] > 0
    assert client.get("/fastapi/words/xyzzy").status_code == 404
    assert "Sentiment" in client.get("/fastapi/openapi.json").text


async def test_fastapi_answers_over_a_websocket(url: str) -> None:
    async with asyncio.timeout(30), connect(url.replace("http", "ws") + "/fastapi/live") as socket:
        await socket.send("What a terrible day")
        assert json.loads(await socket.recv())["score"] < 0


def test_each_request_gets_the_model_that_its_header_names(client: httpx.Client) -> None:
    for model in ("bpe-300", "bpe-2000", "bpe-300"):
        answer = client.post("/multiplexing", json="the carriage", headers={"serve_multiplexed_model_id": model}).json()
        assert answer["model"] == model
        assert "".join(answer["tokens"]) == "thecarriage"


def test_sentences_are_streamed_as_lines(client: httpx.Client) -> None:
    with client.stream("POST", "/streaming", json="It is good. It is awful.") as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["sentence"] for line in lines] == ["It is good.", "It is awful."]
    assert lines[0]["score"] > 0 > lines[1]["score"]


def test_the_pipeline_combines_tokens_sentiment_and_summary(client: httpx.Client) -> None:
    text = "I love this lamp. The light is warm. It was a wonderful present. " * 6
    answer = client.post("/analyze", json={"text": text}).json()
    assert answer["original_length"] > 20
    assert answer["sentiment"]["label"] == "positive"
    assert 0 < len(answer["summary"]) < len(text)


def test_the_pipeline_answers_text_that_says_nothing(client: httpx.Client) -> None:
    answer = client.post("/analyze", json={"text": "... of the. !!! and it is. ??? " * 10})
    assert answer.status_code == 200
    assert answer.json()["sentiment"]["label"] == "neutral"


def test_the_pipeline_describes_itself(client: httpx.Client) -> None:
    assert "text" in client.get("/analyze/openapi.json").text
    assert client.get("/analyze/docs").status_code == 200
