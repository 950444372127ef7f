"""The proxy as an ASGI application: finds the route, sends the request through the router, answers with what comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING, Any

from headrace.config.spec import RouteEntry, RoutingTable
from headrace.exceptions import InvalidRequestError, RequestCancelledError, RequestTimeoutError
from headrace.observe import tracing
from headrace.observe.access_log import AccessLog
from headrace.observe.ended import EndedRequests
from headrace.observe.exposition import CONTENT_TYPE
from headrace.observe.http_counts import HttpCounts, RouteCounts
from headrace.proxy.http_call import HttpCall
from headrace.proxy.protocol import CALL_KEY, TRANSPORT_KEY
from headrace.proxy.responses import Answer, for_error, json_answer, no_route, raw_error, too_large
from headrace.proxy.routes import RouteMatcher
from headrace.proxy.websocket_call import WebSocketCall
from headrace.router.headers import HttpHeader, decode_http_response, encode
from headrace.router.hub import RouterHub
from headrace.wire import frames

if TYPE_CHECKING:
    from headrace.observe.spans import Span

logger = logging.getLogger("headrace.proxy")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_BUFFERED_BODY = frames.PART_BYTES // 2
_MAX_REQUEST_ID = 256
_CLIENT_LEFT = 499
_BROKE_OFF = 500
"""As what a request is counted whose client left, and one whose answer broke off after its status."""
_REQUEST_ID = "headrace.request_id"
_FAILURE = "headrace.failure"
"""Where a request's scope keeps its id, and the name of the error that no replica's answer was there for."""
_FAILURES = {
    _CLIENT_LEFT: "RequestCancelledError",
    408: "RequestTimeoutError",
    **{status: f"HTTP {status}" for status in range(500, 600)},
}
"""What is told as the failure of a request where nothing more is known than how it was answered."""
_WS_FAILURES = {code: f"WebSocket {code}" for code in (1002, 1006, 1011, 1012, 1013, 1014)}
_WEBSOCKET_BROKE = 1011
_LINGER_S = 1.0
_LINGER_BYTES = 4 * 1024 * 1024


class ProxyApp:
    """
    Args:
        hub: this proxy's routers.
        root_path: prefix that a proxy in front strips off.
        request_timeout_s: how long a request may take; None for no limit.
        max_body_bytes: longest request body; None for no limit.

    Attributes:
        counts: what has been answered.
        ended: the latest of it, the slowest and what failed: request id, when, how long, failure, method, route,
            application, status.
        metrics: the whole node's metrics as text; set before the first request.
        access: where each request is noted; None for nowhere.
    """

    def __init__(
        self, root_path: str = "", request_timeout_s: float | None = None, max_body_bytes: int | None = None
    ) -> None:
        self.hub: RouterHub = None  # type: ignore[assignment]
        self.ready = False
        self.counts = HttpCounts()
        self.ended = EndedRequests(monotonic())
        self.metrics: Callable[[], Awaitable[bytes]] = None  # type: ignore[assignment]
        self.access: AccessLog | None = None
        self.routes_known = asyncio.Event()
        self._root_path = root_path
        self._request_timeout_s = request_timeout_s
        self._max_body_bytes = max_body_bytes
        self._routes = RouteMatcher(())
        self._counts_by_route: dict[str, RouteCounts] = {}

    def set_routes(self, table: RoutingTable) -> None:
        """Take on a new routing table, and follow the replica sets behind it from now on."""
        self._routes = RouteMatcher(table.routes)
        self._counts_by_route = {
            entry.route_prefix: self.counts.of(entry.app, entry.ingress, entry.route_prefix) for entry in table.routes
        }
        self.ready = True
        self.hub.routers([(entry.app, entry.ingress) for entry in table.routes])
        self.routes_known.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # HTTP is answered here and not in a method of its own: one coroutine less per request.
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send)
            return
        began = monotonic()
        full_path = scope["path"]
        path = full_path[len(self._root_path) :] if self._root_path else full_path
        if path.startswith("/-/"):
            answer = await self._own(path)
            if answer is not None:
                await _send_answer(send, answer)
                return
        entry = self._routes.match(path)
        counts = self.counts
        if entry is None:
            answer = no_route(path, self._routes.as_dict()) if self.ready else _NOT_READY
            now = monotonic()
            counts.nowhere.record(scope["method"], answer.status, now - began)
            if self.access is not None:
                self._note(self.access, now, now - began, scope, scope["method"], None, answer.status)
            await _send_answer(send, answer)
            return
        of_route = self._counts_by_route[entry.route_prefix]
        counts.ongoing += 1
        status = _CLIENT_LEFT
        span = None if tracing.tracer is None else tracing.tracer.http(scope, entry.app, entry.route_prefix)
        try:
            status = await self._request(entry, scope, receive, send, span)
        finally:
            counts.ongoing -= 1
            now = monotonic()
            took_s = now - began
            method = scope["method"]
            of_route.record(method, status, took_s)
            failure = scope.get(_FAILURE) or _FAILURES.get(status)
            request_id = scope.get(_REQUEST_ID, "")
            prefix = entry.route_prefix
            self.ended.add((request_id, now, took_s, failure, method, prefix, entry.app, status))
            if self.access is not None:
                self._note(self.access, now, took_s, scope, method, entry, status)
            if span is not None:
                span.answered(status)

    def _note(
        self,
        access: AccessLog,
        now: float,
        took_s: float,
        scope: Scope,
        method: str,
        entry: RouteEntry | None,
        status: int,
    ) -> None:
        route, app = ("", "") if entry is None else (entry.route_prefix, entry.app)
        request_id = scope.get(_REQUEST_ID, "")
        access.note((now, took_s, method, scope["raw_path"], route, app, status, request_id, scope["client"]))

    # HTTP.

    async def _request(self, entry: RouteEntry, scope: Scope, receive: Receive, send: Send, span: Span | None) -> int:
        """Have a request answered; returns the status."""
        found = dict(scope["headers"])
        request_id = scope[_REQUEST_ID] = _request_id(found)
        length = found.get(b"content-length")
        flags = frames.HTTP
        payload = b""
        more = False
        timeout_s = entry.request_timeout_s or self._request_timeout_s
        asked = found.get(b"x-request-timeout-ms")
        if asked is not None:
            try:
                timeout_s = _shortened(timeout_s, asked)
            except InvalidRequestError as error:
                return await _send_answer(send, json_answer(400, {"detail": error.detail, "request_id": request_id}))
        if length is not None or b"transfer-encoding" in found:
            limit = self._max_body_bytes
            if limit is not None and length is not None and int(length) > limit:
                return await _refuse_body(send, receive, limit)
            if timeout_s is None:
                body = await _small_body(receive, length, limit)
            else:  # a body that trickles in is no way around the time limit
                started = self.hub.loop.time()
                try:
                    async with asyncio.timeout(timeout_s):
                        body = await _small_body(receive, length, limit)
                except TimeoutError:
                    answer = for_error(RequestTimeoutError("the body did not arrive within the time limit"), request_id)
                    answer.headers.append((b"connection", b"close"))
                    return await _send_answer(send, answer)
                timeout_s -= self.hub.loop.time() - started
            if body is None:
                return _CLIENT_LEFT
            payload, more, exceeded = body
            if exceeded:
                return await _refuse_body(send, receive, limit or 0)
            if more or len(payload) > frames.PART_BYTES:
                flags |= frames.MORE
        header, model_id, session_id = self._header(scope, found, entry, request_id, timeout_s, span)
        call = HttpCall(
            self.hub.loop,
            flags,
            encode(header),
            b"" if flags & frames.MORE else payload,
            method="__call__",
            multiplexed_model_id=model_id,
            session_id=session_id,
            retryable=scope["method"] in _IDEMPOTENT,
            request_id=request_id,
        )
        call.trace = span
        scope[CALL_KEY] = call
        if timeout_s is not None:
            call.timer = self.hub.loop.call_later(timeout_s, call.expire)
        self.hub.router(entry.app, entry.ingress).submit(call)
        pump = None
        if flags & frames.MORE:
            pump = self.hub.loop.create_task(_pump_body(call, payload, more, receive, self._max_body_bytes))
        try:
            return await self._answer(call, scope, receive, send, request_id)
        finally:
            if pump is not None:
                pump.cancel()
            if call.timer is not None:
                call.timer.cancel()
            if not call.settled:
                call.cancel()

    async def _answer(self, call: HttpCall, scope: Scope, receive: Receive, send: Send, request_id: str) -> int:
        try:
            await call.begun
        except RequestCancelledError:
            return _CLIENT_LEFT
        except InvalidRequestError:
            return await _refuse_body(send, receive, self._max_body_bytes or 0)
        except Exception as error:
            answer = for_error(error, request_id)
            if answer.status >= 500:
                scope[_FAILURE] = type(error).__name__
            if answer.status >= 500 and not hasattr(error, "status_code"):
                extra = {"request_id": request_id}
                logger.warning("request %s to %s: %s", request_id, scope["path"], error, extra=extra)
            answer.headers.append((b"x-request-id", request_id.encode("latin-1")))
            return await _send_answer(send, answer)
        head = decode_http_response(call.head)
        headers = head.headers
        headers.append((b"x-request-id", request_id.encode("latin-1")))
        try:
            await send({"type": "http.response.start", "status": head.status, "headers": headers})
        except Exception as error:
            # uvicorn refuses the application's status or headers, and by then takes no others.
            logger.error("request %s to %s: its answer cannot be sent: %r", request_id, scope["path"], error)
            scope[TRANSPORT_KEY].write(raw_error(request_id))
            return _BROKE_OFF
        if call.whole:
            await send({"type": "http.response.body", "body": call.body})
            return head.status
        try:
            while (data := await call.chunks()) is not None:
                if call.complete:
                    await send({"type": "http.response.body", "body": data})
                    return head.status
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except RequestCancelledError:
            return _CLIENT_LEFT
        except Exception as error:
            # The status is on its way already: cutting the connection is the only way to say that it failed.
            logger.warning("request %s to %s broke off: %s", request_id, scope["path"], error)
            scope[TRANSPORT_KEY].abort()
            return _BROKE_OFF
        return head.status

    def _header(
        self,
        scope: Scope,
        found: dict[bytes, bytes],
        entry: RouteEntry,
        request_id: str,
        timeout_s: float | None,
        span: Span | None,
    ) -> tuple[HttpHeader, str, str]:
        model_id = found.get(b"serve_multiplexed_model_id") or found.get(b"serve-multiplexed-model-id") or b""
        session_id = found.get(b"x-session-id", b"")
        prefix = entry.route_prefix
        header = HttpHeader(
            scope.get("method", "GET"),
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            scope["headers"],
            request_id,
            prefix,
            self._root_path if prefix == "/" else self._root_path + prefix.rstrip("/"),
            scope["http_version"],
            scope["scheme"],
            scope["client"],
            scope["server"],
            model_id.decode("latin-1"),
            session_id.decode("latin-1"),
            timeout_s,
        )
        if span is not None:
            span.set({"headrace.request_id": request_id})
            header.trace = span.wire()
        return header, header.multiplexed_model_id, header.session_id

    async def _own(self, path: str) -> Answer | None:
        if path == "/-/healthz":
            if not self.ready:
                return _NOT_READY
            return Answer(200, [(b"content-type", b"text/plain"), (b"content-length", b"7")], b"success")
        if path == "/-/routes":
            return json_answer(200, self._routes.as_dict())
        if path == "/-/metrics":
            text = await self.metrics()
            head = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(text))]
            return Answer(200, head, text)
        return None

    # WebSockets.

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        full_path = scope["path"]
        path = full_path[len(self._root_path) :] if self._root_path else full_path
        entry = self._routes.match(path)
        if entry is None:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "no application has a route for this path"})
            return
        found = dict(scope["headers"])
        request_id = scope[_REQUEST_ID] = _request_id(found)
        span = None if tracing.tracer is None else tracing.tracer.http(scope, entry.app, entry.route_prefix)
        header, model_id, session_id = self._header(scope, found, entry, request_id, None, span)
        header.subprotocols = list(scope.get("subprotocols") or [])
        call = WebSocketCall(
            self.hub.loop,
            frames.WEBSOCKET | frames.MORE,
            encode(header),
            b"",
            method="__call__",
            multiplexed_model_id=model_id,
            session_id=session_id,
        )
        call.trace = span
        began = monotonic()
        of_route = self._counts_by_route[entry.route_prefix]
        self.counts.ongoing += 1
        self.hub.router(entry.app, entry.ingress).submit(call)
        feeding = self.hub.loop.create_task(call.feed(receive))
        closed = False
        try:
            closed = await call.messages(send)
        except Exception as error:
            logger.warning("WebSocket %s to %s: %s", request_id, path, error)
        finally:
            feeding.cancel()
            if not call.settled:
                call.cancel()
            self.counts.ongoing -= 1
            now = monotonic()
            took_s = now - began
            code, prefix = call.close_code, entry.route_prefix
            of_route.record("WS", code, took_s)
            self.ended.add((request_id, now, took_s, _WS_FAILURES.get(code), "WS", prefix, entry.app, code))
            if self.access is not None:
                self._note(self.access, now, took_s, scope, "WS", entry, code)
            if span is not None:
                span.set({"headrace.websocket.close_code": code})
                span.ended("WebSocketError" if code == _WEBSOCKET_BROKE else None)
        if not closed:
            try:
                await send({"type": "websocket.close", "code": 1011, "reason": "the application ended the connection"})
            except Exception:
                logger.debug("the client of WebSocket %s is gone", request_id)


_NOT_READY = json_answer(503, {"detail": "the proxy has not heard of its routes yet"}, (b"retry-after", b"1"))


def _request_id(found: dict[bytes, bytes]) -> str:
    given = found.get(b"x-request-id")
    if given is not None and 0 < len(given) <= _MAX_REQUEST_ID:
        return given.decode("latin-1")
    return f"{getrandbits(128):032x}"


def _shortened(timeout_s: float | None, asked: bytes) -> float | None:
    """The time limit, with what the client asks for, milliseconds: it may have less time than the server gives, and
    never more."""
    try:
        asked_s = int(asked) / 1000
    except ValueError:
        asked_s = 0.0
    if asked_s <= 0:
        text = asked[:40].decode("latin-1")
        raise InvalidRequestError(
            400, f"x-request-timeout-ms must be a positive whole number of milliseconds, not {text!r}"
        )
    return asked_s if timeout_s is None else min(timeout_s, asked_s)


async def _small_body(receive: Receive, length: bytes | None, limit: int | None) -> tuple[bytes, bool, bool] | None:
    """Read a body that fits into a frame, or the beginning of a longer one.

    Returns:
        The bytes, whether more follow, and whether it is longer than `limit`; None where the client left.
    """
    wait_for = _BUFFERED_BODY if length is None or int(length) <= _BUFFERED_BODY else 0
    pieces: list[bytes] = []
    size = 0
    more = True
    while more and size <= wait_for:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = message.get("body", b"")
        size += len(body)
        pieces.append(body)
        more = message.get("more_body", False)
        if limit is not None and size > limit:
            return b"", False, True
        if not wait_for:
            break
    return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), more, False


async def _pump_body(call: HttpCall, first: bytes, more: bool, receive: Receive, limit: int | None) -> None:
    """Pass a long body on as the replica takes it: what neither side has room for stays in the client's socket."""
    size = 0
    body = first
    while True:
        size += len(body)
        if limit is not None and size > limit:
            call.cancel()
            call.failed(InvalidRequestError(413, "too large"))
            return
        for position in range(0, len(body), _BUFFERED_BODY):
            if not await call.writable():
                return
            call.send_body(bytes(body[position : position + _BUFFERED_BODY]))
        if not more:
            break
        message = await receive()
        if message["type"] == "http.disconnect":
            call.client_left()
            return
        body, more = message.get("body", b""), message.get("more_body", False)
    if await call.writable():
        call.end_body()


async def _refuse_body(send: Send, receive: Receive, limit: int) -> int:
    """Answer 413 and read on a little before the connection is closed: closing on unread bytes resets it, and a client
    that is still sending would lose the answer (RFC 9112, section 9.6)."""
    answer = too_large(limit)
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    unread = _LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            more = True
            while more and unread > 0:
                message = await receive()
                more = message.get("more_body", False)
                unread -= len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b""})
    return answer.status


async def _send_answer(send: Send, answer: Answer) -> int:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
    return answer.status
