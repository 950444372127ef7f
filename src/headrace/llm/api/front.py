"""The front of the API: an ASGI application that finds out which model is asked and passes bytes on, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from headrace import get_request_context
from headrace.llm.api.api_keys import ApiKey, KeyRing
from headrace.llm.api.asgi import (
    ASGIApp,
    RawHeaders,
    Receive,
    Scope,
    Send,
    answer_lifespan,
    raw_headers,
    send_error,
    send_json,
    send_whole,
    start_stream,
)
from headrace.llm.api.backend import Affinity, Backend
from headrace.llm.api.errors import ApiError, error_events, error_for, internal_error, nearest, retry_after
from headrace.llm.api.limiter import Limiter, LocalLimiter
from headrace.llm.api.models import ModelTable
from headrace.llm.api.request_body import read_body, unless_disconnected
from headrace.llm.api.request_fields import read_fields
from headrace.llm.api.token_usage import TokenCount, estimated_tokens
from headrace.llm.engines.protocol import EngineRequest
from headrace.llm.metrics.overhead import OverheadMetrics
from headrace.llm.routing.routing_hint import MAX_PREFIX_BYTES, RoutingHint

logger = logging.getLogger("headrace.llm")

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
_OPEN_PATHS = frozenset(("/health", "/version"))
"""What load balancers ask, without a key."""

OWNER = "headrace.owner"
"""In the ASGI scope of mounts: the digest of the client's key, "" where everybody may ask."""

PRIORITY_HEADER = b"x-headrace-priority"
"""`1`: behind all live requests, for what nobody waits for."""
_LAST = 1

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

_LAST_WORD_S = 0.2
_LAST_WORD_SHARE = 0.1


class Front:
    """See `create_front`."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        key_ring: KeyRing | None,
        limiter: Limiter | None,
        max_body_bytes: int,
        mounts: Mapping[str, ASGIApp],
    ) -> None:
        self._models = ModelTable(backends)
        self._key_ring = key_ring
        self._limiter = limiter
        self._max_body_bytes = max_body_bytes
        self._mounts = mounts
        self._overhead = OverheadMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await answer_lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "this API takes no WebSockets"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        root_path = scope.get("root_path", "")
        if root_path and path.startswith(root_path):
            path = path[len(root_path) :]
        headers = dict(scope["headers"])
        context = get_request_context()
        request_id = context.request_id if context is not None else _request_id(headers)
        try:
            key = None
            if self._key_ring is not None and path not in _OPEN_PATHS:
                key = self._key_ring.identify(headers)
            if path not in INFERENCE_PATHS:
                await self._other(path, headers, key, scope, receive, send)
                return
            _require(scope, "POST")
            body = await read_body(headers, receive, self._max_body_bytes)
            if body is None:
                return  # the client left
            answering = self._infer(path, headers, body, request_id, key, send)
            if context is not None:
                await answering  # in a replica: the client's leaving cancels this task
            else:
                await unless_disconnected(answering, receive)
        except Exception as exception:
            error = error_for(exception)
            if error is None:
                logger.exception("request %s to %s failed", request_id, path)
                error = internal_error(request_id)
            await send_error(send, error, path, request_id)

    # Requests to models.

    async def _infer(
        self, path: str, headers: Mapping[bytes, bytes], body: bytes, request_id: str, key: ApiKey | None, send: Send
    ) -> None:
        received_at = time.time()
        fields = read_fields(body)
        model_id = fields.model
        if model_id is None and path in _MODEL_OPTIONAL:
            model_id = self._models.only()
        backend, adapter_id = self._models.find(model_id)
        info = backend.info or await backend.ask_info()
        if path not in info.paths:
            await backend.refresh_info()
            info = backend.info or info
        if path not in info.paths:
            raise ApiError(
                404,
                f"the model {model_id!r} (engine {info.engine!r}) does not answer {path}; {nearest(path, info.paths)}",
                code="unsupported_path",
            )
        passed = {
            name.decode("latin-1"): headers[name].decode("latin-1") for name in _PASSED_HEADERS.intersection(headers)
        }
        priority = _LAST if headers.get(PRIORITY_HEADER) == b"1" else 0
        hint = RoutingHint(bytes(fields.prompt_text[:MAX_PREFIX_BYTES]), adapter_id, fields.session)
        affinity = Affinity(adapter_id, passed.get("x-session-id", ""), hint)
        limiter = self._limiter
        if key is None or limiter is None or not key.limited:
            request = EngineRequest(path, body, request_id, passed, received_at, priority)
            await self._respond(backend, request, affinity, send, None, [])
            return
        verdict = await limiter.reserve(key, estimated_tokens(path, fields))
        if verdict.wait_s:
            raise verdict.refusal()
        count = None if key.tokens_per_minute is None else TokenCount(path, body, fields)
        body = body if count is None else count.body
        request = EngineRequest(path, body, request_id, passed, received_at, priority)
        try:
            await self._respond(backend, request, affinity, send, count, raw_headers(verdict.headers))
        except Exception:
            if count is not None:
                count.whole(b"", 500)
            raise
        finally:
            if count is not None:
                limiter.settle(key, verdict.reserved, count.used)

    async def _respond(
        self,
        backend: Backend,
        request: EngineRequest,
        affinity: Affinity,
        send: Send,
        count: TokenCount | None,
        extra: RawHeaders,
    ) -> None:
        """Pass an answer on. What goes wrong once it has begun is told in the stream, as its last event."""
        stream: AsyncGenerator[bytes, None] | None = None
        begun = False
        try:
            async with _deadline():
                response = await backend.respond(request, affinity)
                body = response.body
                if isinstance(body, bytes):
                    if count is not None:
                        count.whole(body, response.status)
                    await send_whole(send, response, body, request, extra)
                    return
                stream = body
                # What goes wrong before there is anything to send can still be told by the status.
                piece = await anext(stream, b"")
                begun = True
                times = response.times
                await start_stream(send, response, extra)
                if count is None:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    first_at = time.time()
                    async for piece in stream:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                else:
                    await send({"type": "http.response.body", "body": count.piece(piece), "more_body": True})
                    first_at = time.time()
                    async for piece in stream:
                        await send({"type": "http.response.body", "body": count.piece(piece), "more_body": True})
                if times is not None:
                    model_id = "" if backend.info is None else backend.info.model_id
                    tags = {"model": model_id, "adapter": affinity.adapter_id.removeprefix(f"{model_id}:")}
                    self._overhead.sent(request, times, tags, first_at, time.time())
        except Exception as exception:
            if not begun:
                raise
            await send({"type": "http.response.body", "body": _broken_off(exception, request), "more_body": True})
        finally:
            if stream is not None:
                await stream.aclose()
        await send({"type": "http.response.body", "body": b""})

    # Everything else.

    async def _other(
        self, path: str, headers: Mapping[bytes, bytes], key: ApiKey | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        models = self._models
        for prefix, app in self._mounts.items():
            if path == prefix or path.startswith(prefix + "/"):
                await app({**scope, OWNER: "" if key is None else key.digest.hex()}, receive, send)
                return
        if path == "/health":
            _require(scope, "GET", "HEAD")
            await self._health(send)
        elif path == "/version":
            _require(scope, "GET", "HEAD")
            await send_json(send, {"version": importlib.metadata.version("headrace")})
        elif path == "/v1/models":
            _require(scope, "GET", "HEAD")
            await models.refresh()
            await send_json(send, models.anthropic_list() if b"anthropic-version" in headers else models.openai_list())
        elif path.startswith("/v1/models/"):
            _require(scope, "GET", "HEAD")
            model_id = unquote(path[len("/v1/models/") :])
            await models.refresh()
            as_anthropic = b"anthropic-version" in headers
            await send_json(send, models.anthropic_model(model_id) if as_anthropic else models.openai_model(model_id))
        else:
            known = [*INFERENCE_PATHS, "/v1/models", *_OPEN_PATHS, *self._mounts]
            raise ApiError(404, f"no such path: {path}; {nearest(path, known)}", code="unknown_path")

    async def _health(self, send: Send) -> None:
        backends = self._models.backends()
        outcomes = await asyncio.gather(
            *(backend.check_health() for backend in backends.values()), return_exceptions=True
        )
        problems = [
            f"{model_id}: {str(outcome) or type(outcome).__name__}"
            for model_id, outcome in zip(backends, outcomes, strict=False)
            if isinstance(outcome, BaseException)
        ]
        if problems or not backends:
            message = f"not ready: {'; '.join(problems) or 'there is no model'}"
            raise ApiError(503, message, code="not_ready", headers=retry_after(None))
        await send_json(send, {"status": "ok", "models": list(backends)})


def create_front(
    backends: Mapping[str, Backend],
    *,
    api_keys: Sequence[ApiKey] = (),
    limiter: Limiter | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    mounts: Mapping[str, ASGIApp] | None = None,
) -> ASGIApp:
    """An OpenAI-compatible API over any number of models, as an ASGI application.

    Args:
        backends: what answers, by model id. Looked at anew with each request, so that entries may come and go.
        api_keys: who may ask (`read_api_keys`). None of them: everybody may.
        limiter: who counts what keys with limits use: a `HandleLimiter` where there are several ingress replicas. None:
            this application, on its own.
        max_body_bytes: longest body of a request; longer ones get status 413. Default 64 MiB.
        mounts: further applications by path: "/v1/files" gets that path and all below it, once the client has shown
            its key.
    """
    if limiter is None and any(key.limited for key in api_keys):
        limiter = LocalLimiter(api_keys)
    return Front(backends, KeyRing(api_keys) if api_keys else None, limiter, max_body_bytes, mounts or {})


def _deadline() -> Any:
    """Ends the work a little before the request's deadline, after which nobody listens any more."""
    context = get_request_context()
    remaining_s = None if context is None else context.remaining_s()
    if remaining_s is None:
        return contextlib.nullcontext()
    return asyncio.timeout(remaining_s - min(_LAST_WORD_S, _LAST_WORD_SHARE * remaining_s))


def _broken_off(exception: Exception, request: EngineRequest) -> bytes:
    error = error_for(exception)
    if error is None:
        logger.error("request %s to %s broke off", request.request_id, request.path, exc_info=exception)
        error = internal_error(request.request_id)
    else:
        logger.warning("request %s to %s broke off: %s", request.request_id, request.path, error)
    return error_events(error, request.path, request.request_id)


def _request_id(headers: Mapping[bytes, bytes]) -> str:
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
