"""The playground's relay before a real application: what goes there, and in which form its answers come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from tests.serve.conditions import until
from tests.serve.conftest import http, instance

import headrace as serve
from headrace import client as driver
from headrace.controller.rest_playground import MAX_REQUEST_BYTES

__all__ = ["http", "instance"]

PLAYGROUND = "/api/headrace/playground/default"


@serve.deployment(max_ongoing_requests=20)
class Mirror:
    """Answers with what it is asked, in the form that the path names."""

    def __init__(self) -> None:
        self.left = 0

    async def __call__(self, request: Request) -> Any:
        path = request.url.path.removeprefix("/mirror")
        if path == "/page":
            answer: Response = HTMLResponse("<script>alert(1)</script>", 418)
            answer.set_cookie("stolen", "1")
            return answer
        if path == "/stream":
            return StreamingResponse(self.forever(), media_type="text/event-stream")
        if path == "/left":
            return self.left
        return {
            "method": request.method,
            "path": path,
            "query": str(request.url.query),
            "body": (await request.body()).decode(),
            "headers": dict(request.headers),
        }

    async def forever(self) -> AsyncIterator[str]:
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(0.02)
        finally:
            self.left += 1


@pytest.fixture
def page(http: httpx.Client, instance: driver.Client) -> Iterator[httpx.Client]:
    serve.run(Mirror.bind(), route_prefix="/mirror")
    url = instance.rest_url
    with httpx.Client(base_url=url, headers={"origin": url}, timeout=30) as client:
        yield client


def test_a_request_arrives_as_it_was_typed_and_nothing_of_the_page_goes_along(page: httpx.Client) -> None:
    answer = page.post(
        PLAYGROUND,
        params={"method": "PUT", "path": "/a b/ü?x=1&y=%20"},
        content=b"some text",
        headers={
            "content-type": "text/plain",
            "authorization": "Bearer of-the-page",
            "headrace-authorization": "Bearer of-the-app",
            "cookie": "session=1",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["headrace-status"] == "200" and answer.headers["headrace-request-id"]
    assert answer.headers["content-type"] == "application/json"
    seen = answer.json()
    assert {name: seen[name] for name in ("method", "path", "query", "body")} == {
        "method": "PUT",
        "path": "/a b/ü",
        "query": "x=1&y=%20",
        "body": "some text",
    }
    assert seen["headers"]["content-type"] == "text/plain"
    assert seen["headers"]["authorization"] == "Bearer of-the-app"
    assert "cookie" not in seen["headers"] and "origin" not in seen["headers"]


def test_a_page_of_the_application_comes_back_as_text(page: httpx.Client) -> None:
    answer = page.post(PLAYGROUND, params={"path": "/page"})
    assert (answer.status_code, answer.headers["headrace-status"]) == (200, "418")
    assert answer.headers["headrace-content-type"].startswith("text/html")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert answer.text == "<script>alert(1)</script>"


def test_a_stream_comes_as_it_is_made_and_ends_with_who_reads_it(page: httpx.Client) -> None:
    seen = []
    with page.stream("POST", PLAYGROUND, params={"path": "/stream"}) as answer:
        for line in answer.iter_lines():
            seen.append(line)
            if len(seen) > 5:
                break
    assert seen[0] == "data: 0"
    until(lambda: page.post(PLAYGROUND, params={"path": "/left"}).json() == 1)


def test_a_body_that_is_too_long_is_refused(page: httpx.Client) -> None:
    answer = page.post(PLAYGROUND, content=b"x" * (MAX_REQUEST_BYTES + 1))
    assert answer.status_code == 413


def test_many_pages_at_once_get_their_own_answers(page: httpx.Client) -> None:
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = page.post(PLAYGROUND, content=str(number)).json()["body"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) for number in range(16)}
