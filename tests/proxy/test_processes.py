"""The HTTP options reach real proxy processes, of which there may be several on one socket."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver


@serve.deployment
class Size:
    async def __call__(self, request: Request) -> str:
        return "x" * 10_000 + str(len(await request.body()))


@pytest.fixture(scope="module")
def instance() -> Iterator[driver.Client]:
    serve.start(
        http_options={
            "port": 0,
            "num_proxies": 2,
            "max_body_bytes": 1000,
            "middlewares": [{"cls": "starlette.middleware.gzip.GZipMiddleware"}],
        },
        rest_options={"port": 0},
    )
    serve.run(Size.bind())
    yield driver.find()
    serve.shutdown()


def pids(instance: driver.Client) -> list[int]:
    return [proxy.pid for proxy in instance.status().proxies if proxy.pid is not None]


def test_each_of_two_proxies_serves_alone(instance: driver.Client) -> None:
    both = pids(instance)
    assert len(set(both)) == 2
    for stopped in both:
        os.kill(stopped, signal.SIGSTOP)
        try:
            for _ in range(5):
                assert httpx.get(instance.http_url or "", timeout=20).status_code == 200
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_the_options_hold_in_every_proxy(instance: driver.Client) -> None:
    url = instance.http_url or ""
    for stopped in pids(instance):
        os.kill(stopped, signal.SIGSTOP)
        try:
            answer = httpx.get(url, timeout=20)
            assert answer.headers["content-encoding"] == "gzip" and answer.text.endswith("0")
            assert httpx.post(url, content=bytes(1001), timeout=20).status_code == 413
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_one_of_two_proxies_killed_is_replaced_and_nobody_is_refused(instance: driver.Client) -> None:
    before = pids(instance)
    os.kill(before[0], signal.SIGKILL)
    for _ in range(10):
        assert httpx.get(instance.http_url or "", timeout=20).status_code == 200
    assert psutil.pid_exists(before[1])
