"""The front of the API: an ASGI application that finds out which model is asked and passes bytes on, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

import msgspec

from headrace import get_request_context
from headrace.llm.api.backend import Affinity, Backend
from headrace.llm.api.errors import (
    ApiError,
    error_body,
    error_events,
    error_for,
    internal_error,
    is_anthropic,
    nearest,
    openai_body,
    retry_after,
)
from headrace.llm.api.models import ModelTable
from headrace.llm.api.request_fields import RequestFields, read_fields
from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.routing import RoutingHint

logger = logging.getLogger("headrace.llm")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_MAX_BODY_BYTES = 64 * 1024 * 1024

INFERENCE_PATHS = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/v1/score",
        "/rerank",
        "/score",
        "/tokenize",
        "/detokenize",
    )
)
"""What is passed on to a model, by POST."""

_MODEL_OPTIONAL = frozenset(("/v1/rerank", "/v1/score", "/rerank", "/score", "/tokenize", "/detokenize"))

_PASSED_HEADERS = frozenset(
    (
        b"anthropic-beta",
        b"anthropic-version",
        b"traceparent",
        b"tracestate",
        b"x-data-parallel-rank",
        b"x-session-id",
    )
)


class Front:
    """
    Args:
        backends: what answers, by model id; looked at anew with each request.
        max_body_bytes: longest body of a request.
        mounts: further applications by path: "/v1/files" gets that path and all below it, once the client has shown
            its key.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        mounts: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        self._models = ModelTable(backends)
        self._max_body_bytes = max_body_bytes
        self._mounts = mounts or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "this API takes no WebSockets"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        root_path = scope.get("root_path", "")
        if root_path and path.startswith(root_path):
            path = path[len(root_path) :]
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        try:
            if path in INFERENCE_PATHS:
                _require(scope, "POST")
                await self._infer(path, headers, request_id, receive, send)
            else:
                await self._other(path, headers, scope, receive, send)
        except Exception as exception:
            error = error_for(exception)
            if error is None:
                logger.exception("request %s to %s failed", request_id, path)
                error = internal_error(request_id)
            await _send_error(send, error, path, request_id)

    # Requests to models.

    async def _infer(
        self, path: str, headers: Mapping[bytes, bytes], request_id: str, receive: Receive, send: Send
    ) -> None:
        body = await self._body(headers, receive)
        if body is None:
            return  # the client left
        received_at = time.time()
        fields = read_fields(body)
        model_id = fields.model
        if model_id is None and path in _MODEL_OPTIONAL:
            model_id = self._models.only()
        backend, adapter_id = self._models.find(model_id)
        info = backend.info or await backend.ask_info()
        if path not in info.paths:
            raise ApiError(
                404,
                f"the model {model_id!r} (engine {info.engine!r}) does not answer {path}; {nearest(path, info.paths)}",
                code="unsupported_path",
            )
        passed = {
            name.decode("latin-1"): headers[name].decode("latin-1") for name in _PASSED_HEADERS.intersection(headers)
        }
        request = EngineRequest(path, body, request_id, passed, received_at)
        affinity = _affinity(adapter_id, passed, fields)
        await self._answer(backend, request, affinity, receive, send)

    async def _answer(
        self, backend: Backend, request: EngineRequest, affinity: Affinity, receive: Receive, send: Send
    ) -> None:
        context = get_request_context()
        if context is None:
            # Under any other server nobody cancels this task when the client hangs up.
            await _unless_disconnected(self._respond(backend, request, affinity, send), receive)
            return
        await self._respond(backend, request, affinity, send)

    async def _respond(self, backend: Backend, request: EngineRequest, affinity: Affinity, send: Send) -> None:
        response = await backend.respond(request, affinity)
        body = response.body
        if isinstance(body, bytes):
            await _send_whole(send, response, body, request)
            return
        try:
            await send({"type": "http.response.start", "status": response.status, "headers": _head(response)})
            try:
                async for piece in body:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except Exception as exception:
                await send({"type": "http.response.body", "body": _broken_off(exception, request), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await body.aclose()

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The body, or None where the client left.

        Raises:
            ApiError: 413.
        """
        limit = self._max_body_bytes
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False):
            return body
        pieces = [body]
        size = len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            pieces.append(piece)
        return b"".join(pieces)

    # Everything else.

    async def _other(
        self, path: str, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if path == "/health":
            _require(scope, "GET", "HEAD")
            await self._health(send)
        elif path == "/version":
            _require(scope, "GET", "HEAD")
            await _send_json(send, {"version": importlib.metadata.version("headrace")})
        elif path == "/v1/models":
            _require(scope, "GET", "HEAD")
            models = self._models
            await _send_json(send, models.anthropic_list() if b"anthropic-version" in headers else models.openai_list())
        elif path.startswith("/v1/models/"):
            _require(scope, "GET", "HEAD")
            model_id = unquote(path[len("/v1/models/") :])
            models = self._models
            if b"anthropic-version" in headers:
                await _send_json(send, models.anthropic_model(model_id))
            else:
                await _send_json(send, models.openai_model(model_id))
        else:
            for prefix, app in self._mounts.items():
                if path == prefix or path.startswith(prefix + "/"):
                    await app(scope, receive, send)
                    return
            known = [*INFERENCE_PATHS, "/v1/models", "/health", "/version", *self._mounts]
            raise ApiError(404, f"no such path: {path}; {nearest(path, known)}", code="unknown_path")

    async def _health(self, send: Send) -> None:
        backends = self._models.backends()
        outcomes = await asyncio.gather(
            *(backend.check_health() for backend in backends.values()), return_exceptions=True
        )
        problems = {
            model_id: str(outcome) or type(outcome).__name__
            for model_id, outcome in zip(backends, outcomes, strict=False)
            if isinstance(outcome, BaseException)
        }
        if problems or not backends:
            said = "; ".join(f"{model_id}: {problem}" for model_id, problem in problems.items())
            error = ApiError(503, f"not ready: {said or 'no model'}", code="unhealthy", headers=retry_after(None))
            await _send_bytes(send, 503, openai_body(error), error.headers)
            return
        await _send_json(send, {"status": "ok", "models": list(backends)})


def create_front(
    backends: Mapping[str, Backend],
    *,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    mounts: Mapping[str, ASGIApp] | None = None,
) -> ASGIApp:
    """An OpenAI-compatible API over any number of models, as an ASGI application.

    Args:
        backends: what answers, by model id. Looked at anew with each request, so that entries may come and go.
        max_body_bytes: longest body of a request; longer ones get status 413. Default 64 MiB.
        mounts: further applications by path: "/v1/files" gets that path and all below it.
    """
    return Front(backends, max_body_bytes, mounts)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    context = get_request_context()
    if context is not None:
        return context.request_id
    given = headers.get(b"x-request-id")
    return given.decode("latin-1") if given else uuid.uuid4().hex


def _require(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise ApiError(
            405,
            f"{scope['path']} takes {' and '.join(methods)}, not {scope['method']}",
            code="method_not_allowed",
            headers={"allow": ", ".join(methods)},
        )


def _affinity(adapter_id: str, passed: Mapping[str, str], fields: RequestFields) -> Affinity:
    hint = RoutingHint(fields.prompt_text, adapter_id, fields.session)
    return Affinity(adapter_id, passed.get("x-session-id", ""), hint)


def _too_large(limit: int) -> ApiError:
    # Closing spares reading the rest of the body.
    return ApiError(
        413, f"the body is longer than {limit} bytes", code="request_too_large", headers={"connection": "close"}
    )


def _broken_off(exception: Exception, request: EngineRequest) -> bytes:
    error = error_for(exception)
    if error is None:
        logger.error("request %s to %s broke off", request.request_id, request.path, exc_info=exception)
        error = internal_error(request.request_id)
    else:
        logger.warning("request %s to %s broke off: %s", request.request_id, request.path, error)
    return error_events(error, request.path, request.request_id)


def _head(response: EngineResponse) -> list[tuple[bytes, bytes]]:
    head = [(b"content-type", response.media_type.encode("latin-1"))]
    for name, value in response.headers.items():
        head.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return head


async def _send_whole(send: Send, response: EngineResponse, body: bytes, request: EngineRequest) -> None:
    if response.status >= 400 and is_anthropic(request.path):
        body = _in_anthropic_shape(body, response.status, request.request_id)
    head = _head(response)
    head.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _in_anthropic_shape(body: bytes, status: int, request_id: str) -> bytes:
    """An engine's error in Anthropic's shape, which it has already where the engine knows that API itself."""
    try:
        content = msgspec.json.decode(body)
        if content.get("type") == "error":
            return body
        message = str(content["error"]["message"])
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError):
        message = body.decode(errors="replace")
    return error_body(ApiError(status, message), "/v1/messages", request_id)


async def _send_error(send: Send, error: ApiError, path: str, request_id: str) -> None:
    await _send_bytes(send, error.status, error_body(error, path, request_id), error.headers)


async def _send_json(send: Send, content: Any) -> None:
    await _send_bytes(send, 200, msgspec.json.encode(content), {})


async def _send_bytes(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    for name, value in headers.items():
        head.append((name.encode("latin-1"), value.encode("latin-1")))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def _unless_disconnected(work: Any, receive: Receive) -> None:
    """Do `work`, and leave it when the client hangs up."""
    task = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watching), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        watching.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
