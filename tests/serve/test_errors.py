"""What bad requests get, and what applications that fail answer, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ApplicationBuildError, ConfigError

LIMIT = 10_000


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    """As the other tests', with a limit for bodies."""
    serve.start(http_options={"port": 0, "max_body_bytes": LIMIT}, rest_options={"port": 0})
    yield driver.find()
    serve.shutdown()


@serve.deployment(max_ongoing_requests=10)
class Echo:
    async def __call__(self, request: Request) -> bytes:
        return await request.body()


class Item(BaseModel):
    name: str
    count: int = 1


@serve.deployment
class Typed:
    async def __call__(self, item: Item) -> Item:
        return item


def raw(instance: driver.Client, head: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """Send bytes as they are; returns the head of the answer and its body, up to the end of the connection."""
    assert instance.session.http is not None
    with socket.create_connection(instance.session.http, timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    answer_head, _, answer_body = received.partition(b"\r\n\r\n")
    return answer_head, answer_body


def test_a_body_over_the_limit_is_refused_before_it_is_read(http: httpx.Client, instance: driver.Client) -> None:
    serve.run(Echo.bind())
    assert http.post("/", content=b"x" * LIMIT).content == b"x" * LIMIT
    # Not a byte of the body is ever sent.
    head, body = raw(instance, "POST / HTTP/1.1\nhost: x\ncontent-length: 1000000000000")
    assert b" 413 " in head and b"connection: close" in head.lower()
    assert f"{LIMIT} bytes" in json.loads(body)["detail"]


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Echo.bind())
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    head, _ = raw(instance, "POST / HTTP/1.1\nhost: x\ntransfer-encoding: chunked", 3 * chunk)
    assert b" 413 " in head
    assert http.post("/", content=iter([b"x" * 100, b"y" * 100])).content == b"x" * 100 + b"y" * 100


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b'{"name": "a", "count": 2}', 200, None),
        (b'{"item": {"name": "a"}}', 422, None),
        (b'{"name": "a", "count": "many"}', 422, "count"),
        (b'{"count": 2}', 422, "name"),
        (b"[1, 2]", 422, None),
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"name": "\xff"}', 400, None),
        (b"[" * 5000, 400, None),
    ],
)
def test_what_typed_handlers_are_sent_is_checked(
    http: httpx.Client, body: bytes, status: int, field: str | None
) -> None:
    serve.run(Typed.bind())
    answer = http.post("/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    if field is not None:
        assert answer.json()["detail"][0]["loc"][-1] == field
    if status != 200:
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody tries TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\nx",
    ],
)
def test_what_is_no_http_is_refused_and_harms_nobody(
    http: httpx.Client, instance: driver.Client, garbage: bytes
) -> None:
    serve.run(Echo.bind())
    assert instance.session.http is not None
    with socket.create_connection(instance.session.http, timeout=20) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert b" 400 " in received or not received
    assert http.post("/", content=b"fine").content == b"fine"


def make_failing() -> Any:
    """Made in a function, its exceptions are classes that the tests do not share with replicas."""

    class Secret(Exception):
        pass

    @serve.deployment
    class Inner:
        async def __call__(self) -> None:
            raise Secret("password 1234")

    @serve.deployment
    class Failing:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, request: Request) -> Any:
            match request.url.path:
                case "/raises":
                    raise Secret("password 1234")
                case "/inner":
                    return await self.inner.remote()
                case "/http":
                    raise HTTPException(418, "I am a teapot", headers={"x-tea": "green"})
                case "/lock":
                    return {"results": [1, threading.Lock()]}
                case "/stream":
                    return (piece for piece in ["one", object()])
                case "/exit":
                    raise SystemExit("password 1234")
                case "/cancelled":
                    raise asyncio.CancelledError
            return None

    return Failing.bind(Inner.bind())


@pytest.mark.parametrize("path", ["/raises", "/inner", "/lock", "/exit", "/cancelled"])
def test_a_failing_handler_is_a_500_that_tells_nothing_but_the_request_id(http: httpx.Client, path: str) -> None:
    serve.run(make_failing())
    answer = http.get(path, headers={"x-request-id": f"id-of{path}"})
    assert answer.status_code == 500
    assert answer.json()["request_id"] == f"id-of{path}" == answer.headers["x-request-id"]
    assert "password" not in answer.text and "Traceback" not in answer.text and "Secret" not in answer.text


FAILING = """
import headrace as serve, httpx
from headrace import client

class Secret(Exception):
    pass

@serve.deployment
class Inner:
    async def __call__(self):
        raise Secret("password 1234")

@serve.deployment
class Failing:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, request):
        match request.url.path:
            case "/inner":
                return await self.inner.remote()
            case "/object":
                return {"results": [1, object()]}
            case "/cancelled":
                import asyncio
                raise asyncio.CancelledError

serve.start(http_options={"port": 0}, rest_options={"port": 0})
serve.run(Failing.bind(Inner.bind()))
for name in ("inner", "object", "cancelled"):
    httpx.get(f"{client.find().http_url}/{name}", headers={"x-request-id": f"id-of-{name}"})
"""


@pytest.mark.local_engine("a script's terminal shows the log of an instance of its own alone")
def test_the_traceback_is_in_the_log_under_the_request_id_without_frames_of_ours(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(FAILING)
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    inner, _, rest = ended.stderr.partition("request id-of-inner to Failing failed")
    assert "request id-of-inner to Inner failed" in inner
    assert inner.count('raise Secret("password 1234")') == 1
    assert "return await self.inner.remote()" in rest
    assert "request id-of-object to Failing failed" in rest and "result['results'][1]" in rest
    assert "request id-of-cancelled to Failing failed" in rest
    assert "/headrace/" not in ended.stderr, "no frames of ours"


def test_an_http_exception_is_the_answer(http: httpx.Client) -> None:
    serve.run(make_failing())
    answer = http.get("/http")
    assert (answer.status_code, answer.json()["detail"], answer.headers["x-tea"]) == (418, "I am a teapot", "green")


def test_a_stream_with_a_piece_that_cannot_be_sent_breaks_off(http: httpx.Client) -> None:
    serve.run(make_failing())
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/stream")
    assert http.get("/").status_code == 200


def test_without_an_application_the_answer_says_so(http: httpx.Client) -> None:
    answer = http.get("/any")
    assert answer.status_code == 404
    assert "no application is deployed" in answer.json()["detail"]


def test_overload_is_answered_as_the_deployment_says(http: httpx.Client, instance: driver.Client) -> None:
    @serve.deployment(
        max_ongoing_requests=1,
        max_queued_requests=1,
        backpressure_config={"status_code": 429, "retry_after_s": 7},
    )
    class Busy:
        def __init__(self) -> None:
            self.go = asyncio.Event()

        async def __call__(self) -> str:
            await self.go.wait()
            return "done"

        async def release(self) -> None:
            self.go.set()

    serve.run(Busy.options(max_ongoing_requests=2).bind())
    handle = serve.get_app_handle("default")

    async def many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=instance.http_url or "", timeout=20) as client:
            requests = [asyncio.create_task(client.get("/")) for _ in range(4)]
            refused = await next(asyncio.as_completed(requests))
            await asyncio.to_thread(serve.run, Busy.options(max_ongoing_requests=5).bind())
            await handle.release.remote()
            return [refused, *await asyncio.gather(*requests)]

    refused, *answers = asyncio.run(many())
    assert refused.status_code == 429 and refused.headers["retry-after"] == "7"
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429]


def test_a_circular_bind_is_refused_with_the_circle() -> None:
    @serve.deployment
    class Ring:
        def __init__(self, other: Any) -> None:
            self.other = other

    arguments: list[Any] = []
    first = Ring.options(name="First").bind(arguments)
    arguments.append(Ring.options(name="Second").bind(first))
    with pytest.raises(ApplicationBuildError, match=r"First.*Second.*First"):
        serve.run(first)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_ongoing_request": 5}, "did you mean 'max_ongoing_requests'"),
        ({"num_replicas": 0}, "num_replicas"),
        ({"user_confg": {}}, "did you mean 'user_config'"),
        ({"health_check_period_s": -1}, "health_check_period_s"),
        ({"max_concurrent_queries": 5}, "max_ongoing_requests"),
        ({"route_prefix": "/"}, "serve.run"),
    ],
)
def test_options_that_are_wrong_are_named_with_what_would_be_right(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        serve.deployment(**options)
    with pytest.raises(ConfigError, match=expected):
        Echo.options(**options)


def test_an_error_of_ours_ends_a_script_without_frames_of_our_insides() -> None:
    script = "import headrace as serve\nserve.deployment(num_replica=1)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr.strip().splitlines()[-1].startswith("headrace.exceptions.ConfigError: ")
