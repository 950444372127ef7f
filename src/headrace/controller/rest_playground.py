"""Brings requests of the dashboard's playground to an application, through this node's proxy, and the answers back.

A page cannot ask the proxy itself: that is another origin, which would have to allow it to every page. What comes back
is whatever a user's code or model says, so that it is handed on as text, which no browser takes for a page.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import httptools
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from headrace.controller.controller import Controller
from headrace.controller.rest_guard import PLAYGROUND_PATH

MAX_REQUEST_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
LONGEST_S = 300.0
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_READ_BYTES = 64 * 1024
_ALWAYS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Disposition": "attachment"}


class Playground:
    """`POST /api/headrace/playground/{app}?method=...&path=...`: the body goes to the application as it is.

    The answer's status is always 200 where the application has answered; `Headrace-Status`, `Headrace-Content-Type`
    and `Headrace-Request-Id` tell what it has said. Its own headers are not handed on, nor are this request's but for
    its content type and, as `Headrace-Authorization`, what the application itself is to be shown.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.routes = [Route(f"{PLAYGROUND_PATH}{{name}}", self.relay, methods=["POST"])]

    async def relay(self, request: Request) -> Response:
        """Answers 400 for what cannot be asked, 404 for no such application, 502 where the proxy does not answer."""
        method = request.query_params.get("method", "POST").upper()
        if method not in METHODS:
            raise HTTPException(400, f"method: must be one of {', '.join(METHODS)}, not {method[:20]!r}")
        path = request.query_params.get("path", "")
        if path and not path.startswith(("/", "?")):
            raise HTTPException(400, f"path: must begin with '/' or '?', or be empty; not {path[:80]!r}")
        target = await self._target(request.path_params["name"], path)
        head = _head(method, target, request.headers)
        body = await _body(request)
        exchange = _Exchange(await self._connect(), head, body, LONGEST_S)
        try:
            status = await exchange.begin()
        except (OSError, TimeoutError, httptools.HttpParserError, EOFError) as error:
            exchange.close()
            raise HTTPException(502, f"the proxy has not answered: {error or type(error).__name__}") from None
        except BaseException:
            exchange.close()
            raise
        kind = exchange.headers.get("content-type", "")
        headers = {
            **_ALWAYS,
            "Headrace-Status": str(status),
            "Headrace-Content-Type": kind,
            "Headrace-Request-Id": exchange.headers.get("x-request-id", ""),
        }
        is_json = kind.partition(";")[0].strip().lower() == "application/json"
        return StreamingResponse(
            exchange.body(), media_type="application/json" if is_json else "text/plain; charset=utf-8", headers=headers
        )

    async def _target(self, name: str, path: str) -> str:
        by_name = self._controller.applications.by_name
        if name not in by_name:
            raise HTTPException(
                404, f"there is no application '{name}'; there are {', '.join(sorted(by_name)) or 'none'}"
            )
        prefix = by_name[name].spec.route_prefix
        if prefix is None:
            raise HTTPException(400, f"application '{name}' has no route: it is called through handles only")
        http = self._controller.config.http
        root = ((http.root_path or "") if http is not None else "").rstrip("/")
        # "/" is what is left of a route "/" to which nothing is added.
        return quote(f"{root}{prefix.rstrip('/')}{path}" or "/", safe="/?&=%:@!$'()*+,;~-._[]")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        status = await self._controller.status([])
        if status.http_host is None or status.http_port is None:
            raise HTTPException(400, "this instance serves no HTTP")
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
        http = self._controller.config.http
        tls: ssl.SSLContext | None = None
        if http is not None and http.ssl_certfile:
            # The certificate is that of the name by which others know this machine, and the proxy is this instance's.
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        try:
            async with asyncio.timeout(5):
                return await asyncio.open_connection(
                    everywhere.get(status.http_host, status.http_host), status.http_port, ssl=tls
                )
        except (OSError, TimeoutError) as error:
            raise HTTPException(502, f"the proxy cannot be reached: {error or 'no answer'}") from None


class _Exchange:
    """One request to the proxy, and its answer as it comes. The parser calls the `on_` methods."""

    def __init__(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], head: str, body: bytes, longest_s: float
    ) -> None:
        self._reader, self._writer = connection
        self._parser = httptools.HttpResponseParser(self)
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
        self._deadline = asyncio.get_running_loop().time() + longest_s
        self._pieces: list[bytes] = []
        self._has_headers = self._complete = False
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._has_headers = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._complete = True

    async def begin(self) -> int:
        """Sends the request; returns the answer's status once its headers are there."""
        self._writer.write(self._request)
        await self._writer.drain()
        while not self._has_headers:
            if not await self._read():
                raise EOFError("the connection has ended")
        return int(self._parser.get_status_code())

    async def body(self) -> AsyncIterator[bytes]:
        """The answer's body. It ends early, with the connection, at `MAX_ANSWER_BYTES` and after the longest time."""
        left = MAX_ANSWER_BYTES
        try:
            while True:
                while self._pieces:
                    piece = self._pieces.pop(0)[:left]
                    left -= len(piece)
                    yield piece
                # A HEAD's answer, and one of no length, is complete when the connection ends.
                if self._complete or left == 0 or not await self._read():
                    return
        except (OSError, TimeoutError, httptools.HttpParserError):
            return
        finally:
            self.close()

    async def _read(self) -> bool:
        async with asyncio.timeout_at(self._deadline):
            data = await self._reader.read(_READ_BYTES)
        if data:
            self._parser.feed_data(data)
        return bool(data)

    def close(self) -> None:
        """The proxy sees that nobody waits any more, and cancels what it has not answered."""
        with contextlib.suppress(OSError):
            self._writer.close()


def _head(method: str, target: str, given: Mapping[str, str]) -> str:
    """The request's first lines; what they carry of the page's request has been an HTTP header already."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", "Accept: */*"]
    for name, ours in (("Content-Type", "content-type"), ("Authorization", "headrace-authorization")):
        if value := given.get(ours):
            lines.append(f"{name}: {value}")
    return "\r\n".join(lines) + "\r\n"


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise HTTPException(413, f"the playground's requests have at most {MAX_REQUEST_BYTES} bytes")
    return bytes(body)
