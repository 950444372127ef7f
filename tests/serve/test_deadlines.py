"""How long requests may take, by the server's and the client's will, and that nothing is begun for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, RequestTimeoutError

from .conditions import ids, lines, until


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    serve.start(http_options={"port": 0, "request_timeout_s": 1.0}, rest_options={"port": 0})
    yield driver.find()
    serve.shutdown()


@serve.deployment(max_ongoing_requests=10)
class Slow:
    def __init__(self, file: str = "") -> None:
        self.file = Path(file) if file else None

    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(float(request.query_params["s"]))
        return "done"

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - what users do

    async def note(self, text: str) -> None:
        assert self.file is not None
        with self.file.open("a") as file:
            file.write(text + "\n")

    def note_in_thread(self, text: str, seconds: float = 0.0) -> None:
        assert self.file is not None
        with self.file.open("a") as file:
            file.write(text + "\n")
        time.sleep(seconds)


def timed(http: httpx.Client, milliseconds: str, seconds: float) -> tuple[int, float]:
    began = time.monotonic()
    answer = http.get("/", params={"s": seconds}, headers={"x-request-timeout-ms": milliseconds})
    return answer.status_code, time.monotonic() - began


def test_a_client_may_shorten_the_time_limit(http: httpx.Client) -> None:
    serve.run(Slow.bind())
    status, took_s = timed(http, "100", 30)
    assert status == 408 and 0.1 <= took_s < 0.9
    assert timed(http, "900", 0)[0] == 200


def test_a_client_may_not_lengthen_the_time_limit(http: httpx.Client) -> None:
    serve.run(Slow.bind())
    status, took_s = timed(http, "60000", 30)
    assert status == 408 and took_s < 5


def test_an_application_has_a_time_limit_of_its_own_which_changes_without_a_restart(
    http: httpx.Client, instance: driver.Client
) -> None:
    serve.run(Slow.bind(), request_timeout_s=0.1)
    before = ids("Slow")
    assert http.get("/", params={"s": 30}).status_code == 408
    serve.run(Slow.bind(), name="patient", route_prefix="/patient", request_timeout_s=30)
    assert http.get("/patient", params={"s": 1.3}).text == "done"  # longer than the instance's limit
    serve.run(Slow.bind(), request_timeout_s=10)
    until(lambda: http.get("/", params={"s": 0.3}).status_code == 200)
    assert http.get("/", params={"s": 1.3}).status_code == 200
    assert ids("Slow") == before
    assert "request_timeout_s 0.1 → 10" in instance.history("default").deploys[0].changes


@pytest.mark.parametrize("wrong", [0, -1, "5", float("nan"), float("inf"), True])
def test_a_time_limit_of_an_application_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="request_timeout_s: must be a positive number of seconds"):
        serve.run(Slow.bind(), request_timeout_s=wrong)


@pytest.mark.parametrize("wrong", ["0", "-5", "soon", "1.5", ""])
def test_a_time_limit_that_is_none_is_refused(http: httpx.Client, wrong: str) -> None:
    serve.run(Slow.bind())
    answer = http.get("/", params={"s": 0}, headers={"x-request-timeout-ms": wrong})
    assert answer.status_code == 400 and "x-request-timeout-ms" in answer.json()["detail"]


def test_a_request_that_expired_behind_a_blocked_event_loop_is_not_started(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(Slow.bind(str(tmp_path / "notes")))
    handle.note.remote("before").result()
    blocked = handle.block.remote(0.6)
    expired = [handle.options(timeout_s=0.1).note.remote("expired") for _ in range(5)]
    for response in expired:
        with pytest.raises(RequestTimeoutError):
            response.result(timeout_s=10)
    blocked.result(timeout_s=10)
    handle.note.remote("after").result(timeout_s=10)
    assert lines(tmp_path / "notes") == ["before", "after"]


def test_a_request_that_expired_while_it_waited_for_a_thread_is_not_started(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(Slow.bind(str(tmp_path / "notes")))
    first = handle.note_in_thread.remote("first", 0.5)
    until(lambda: lines(tmp_path / "notes"))
    with pytest.raises(RequestTimeoutError):
        handle.options(timeout_s=0.1).note_in_thread.remote("expired").result(timeout_s=10)
    first.result(timeout_s=10)
    handle.note_in_thread.remote("last").result(timeout_s=10)
    assert lines(tmp_path / "notes") == ["first", "last"]


def test_a_request_that_expired_in_the_queue_is_not_started(http: httpx.Client, tmp_path: Path) -> None:
    handle = serve.run(Slow.options(max_ongoing_requests=1).bind(str(tmp_path / "notes")))
    first = handle.note_in_thread.remote("first", 0.5)
    until(lambda: lines(tmp_path / "notes"))
    with pytest.raises(RequestTimeoutError):
        handle.options(timeout_s=0.1).note.remote("expired").result(timeout_s=10)
    first.result(timeout_s=10)
    handle.note.remote("last").result(timeout_s=10)
    assert lines(tmp_path / "notes") == ["first", "last"]
