"""What `serve.start(http_options=...)` says, as clients meet it. What each option does in a proxy is tested there."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError

MIDDLEWARE = """
class Stamp:
    def __init__(self, app, text, *, name="x-stamp"):
        self.app, self.header = app, (name.encode(), text.encode())

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self.header]
            await send(message)

        await self.app(scope, receive, stamped)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., driver.Client]]:
    """Starts an instance with the options given."""
    serve.shutdown()

    def start(**http_options: Any) -> driver.Client:
        serve.start(http_options={"port": 0, **http_options}, rest_options={"port": 0})
        return driver.find()

    yield start
    serve.shutdown()


def make_echo() -> Any:
    @serve.deployment
    async def echo(request: Request) -> dict[str, str]:
        return {"path": request.url.path, "root_path": request.scope["root_path"], "scheme": request.url.scheme}

    return echo.bind()


def test_middlewares_and_root_path(
    start: Callable[..., driver.Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stamping.py").write_text(MIDDLEWARE)
    monkeypatch.syspath_prepend(str(tmp_path))
    middlewares = [
        {"cls": "stamping:Stamp", "args": ["outer"]},
        {"cls": "stamping.Stamp", "args": ["inner"], "kwargs": {"name": "x-inner"}},
    ]
    instance = start(root_path="/behind", middlewares=middlewares)
    serve.run(make_echo(), route_prefix="/echo")
    answer = httpx.get(f"{instance.http_url}/echo/x")  # the proxy in front has stripped the prefix off
    assert answer.json() == {"path": "/behind/echo/x", "root_path": "/behind/echo", "scheme": "http"}
    assert (answer.headers["x-stamp"], answer.headers["x-inner"]) == ("outer", "inner")


def test_https(start: Callable[..., driver.Client], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    instance = start(ssl_keyfile=str(key), ssl_certfile=str(certificate))
    serve.run(make_echo())
    assert instance.http_url is not None and instance.http_url.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificate))
    assert httpx.get(f"{instance.http_url}/x", verify=context).json()["scheme"] == "https"


def test_without_http_handles_still_call(start: Callable[..., driver.Client]) -> None:
    serve.start(proxy_location="Disabled", rest_options={"port": 0})
    instance = driver.find()
    assert instance.http_url is None and not serve.status().proxies

    @serve.deployment
    class Double:
        def __call__(self, x: int) -> int:
            return 2 * x

    assert serve.run(Double.bind()).remote(21).result() == 42


def test_options_may_be_an_object(start: Callable[..., driver.Client]) -> None:
    serve.start(http_options=serve.HTTPOptions(port=0, host="127.0.0.1"), rest_options={"port": 0})
    serve.run(make_echo())
    assert httpx.get(f"{driver.find().http_url}/x").json()["path"] == "/x"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"port": 80_000}, "port"),
        ({"prot": 1}, "did you mean 'port'"),
        ({"root_path": "api/"}, "root_path"),
        ({"ssl_keyfile": "/nowhere/key.pem"}, "ssl_certfile is missing"),
        ({"ssl_keyfile": "/nowhere/key.pem", "ssl_certfile": "/nowhere/c.pem"}, "there is no file '/nowhere/key.pem'"),
        ({"request_timeout_s": -1}, "request_timeout_s"),
        ({"num_proxies": 0}, "num_proxies"),
        ({"middlewares": ["nowhere:Stamp"]}, r"middlewares\[0\].cls: 'nowhere:Stamp' cannot be imported"),
        ({"middlewares": ["os:sep"]}, "no ASGI middleware"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        serve.start(http_options=options)
    assert driver.connected() is None


@pytest.mark.local_engine("on a cluster it is in the log of the proxy's machine")
def test_a_proxy_that_cannot_start_says_why_in_one_line(start: Callable[..., driver.Client]) -> None:
    script = """
import sys, headrace as serve
sys.modules["here_only"] = sys
sys.here = lambda app: app
serve.start(http_options={"port": 0, "middlewares": ["here_only:here"]}, rest_options={"port": 0})
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("headrace: proxy-0 cannot start: http_options.middlewares: cannot make 'here_only")
    process.kill()
    process.communicate()
