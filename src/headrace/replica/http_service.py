"""Runs the calls that are HTTP requests or WebSockets: the ingress deployment's side of the proxy.

A request becomes a call of the user's `__call__` (or of the ASGI application that `serve.ingress` attached), its result
becomes one frame, or a stream of them where the result streams or is large.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from headrace.exceptions import BackPressureError, InvalidRequestError, RequestTimeoutError
from headrace.observe import tracing
from headrace.observe.log_format import in_request
from headrace.replica.http.encode import encode_result
from headrace.replica.http.errors import error_response, response_for_exception
from headrace.replica.http.plan import HandlerPlan
from headrace.replica.http.request import request_from
from headrace.replica.http.results import ASGIResult, EncodedResponse, StreamingResult
from headrace.replica.http_stream import LARGE_BODY, AsgiSender, JoinedPieces, end_stream, send_large
from headrace.replica.service import CANCELLED, ReplicaService, iterate_in_thread, task_of
from headrace.replica.user_code import Method, MethodKind
from headrace.replica.user_traceback import user_traceback
from headrace.router.context import RequestContext, request_context
from headrace.router.headers import HttpHeader, decode_http, decode_message, encode, encode_message, with_ongoing
from headrace.wire import frames
from headrace.wire.callee import ServerCall
from headrace.wire.errors import ConnectionLost

logger = logging.getLogger("headrace.replica")

Message = MutableMapping[str, Any]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_UNANSWERED = (408, 499)

_ASGI = {"version": "3.0", "spec_version": "2.3"}


class HttpService:
    """
    Args:
        service: admits and counts calls.
        method: the user's `__call__`; None where `asgi` answers.
        plan: how a request becomes the method's arguments.
        asgi: the application of a class decorated with `serve.ingress`.
        max_body_bytes: the longest body that a typed handler's request may have; None for any.
    """

    def __init__(
        self,
        service: ReplicaService,
        method: Method | None,
        plan: HandlerPlan | None,
        asgi: ASGIApp | None,
        max_body_bytes: int | None,
    ) -> None:
        self._service = service
        self._method = method
        self._plan = plan
        self._asgi = asgi
        self._max_body_bytes = max_body_bytes

    def start(self, call: ServerCall) -> None:
        service = self._service
        header = decode_http(call.header)
        timeout_s = header.timeout_s
        now = monotonic()
        context = RequestContext(
            header.request_id,
            service.app,
            service.deployment,
            header.route,
            header.multiplexed_model_id,
            header.session_id,
            None if timeout_s is None else now + timeout_s,
            now,
        )
        call.note = context
        attached = None
        if tracing.tracer is not None:
            context.span = tracing.tracer.replica(
                header.trace, service.app, service.deployment, "__call__", header.request_id
            )
            attached = context.span.attach()
        token = request_context.set(context)
        try:
            if timeout_s is not None and timeout_s <= 0:
                self._respond_exception(call, context, RequestTimeoutError("expired before it was started"))
                return
            if call.flags & frames.WEBSOCKET:
                coroutine = self._run_websocket(call, context, header)
            elif self._asgi is not None:
                coroutine = self._run_asgi_app(call, context, self._asgi, _scope(header))
            else:
                started = self._start_handler(call, context, header)
                if started is None:
                    return
                coroutine = started
            task = service.loop.create_task(coroutine)
        finally:
            request_context.reset(token)
            if attached is not None:
                context.span.detach(attached)
        call.task = task

    # Plain handlers.

    def _start_handler(self, call: ServerCall, context: RequestContext, header: HttpHeader) -> Any | None:
        """Begin with a handler's request: a coroutine to run as a task, or None where it is under way or done."""
        method, plan = self._method, self._plan
        if method is None or plan is None:
            problem = f"deployment {self._service.deployment!r} has no __call__ to answer HTTP requests with"
            self._respond(call, error_response(501, problem, context.request_id))
            return None
        scope = _scope(header)
        streams_in = call.flags & frames.MORE
        try:
            if plan.kind == "request":
                if streams_in:
                    args: tuple[Any, ...] = (request_from(scope, None, _receiver(call)),)
                    call.accept_body()
                else:
                    args = (request_from(scope, bytes(call.payload)),)
                call.payload = b""
                kwargs: dict[str, Any] = {}
            elif plan.kind == "no_argument":
                args, kwargs = (), {}
            else:
                description = plan.description(scope)
                if description is not None:
                    self._respond(call, description)
                    return None
                if streams_in:
                    return self._collect_and_run(call, context, scope, plan)
                args, kwargs = plan.bind(scope, bytes(call.payload))
        except Exception as error:
            self._respond_exception(call, context, error)
            return None
        return self._start_method(call, context, scope, args, kwargs)

    def _start_method(
        self, call: ServerCall, context: RequestContext, scope: Message, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any | None:
        method = self._method
        assert method is not None
        kind = method.kind
        if kind is MethodKind.ASYNC:
            return self._run(call, context, scope, method.function, args, kwargs)
        if method.is_generator:
            return self._run(call, context, scope, _returning(method.function(*args, **kwargs)), (), {})
        self._run_sync(call, context, scope, method.function, args, kwargs)
        return None

    async def _collect_and_run(
        self, call: ServerCall, context: RequestContext, scope: dict[str, Any], plan: HandlerPlan
    ) -> None:
        call.entered = True
        call.accept_body()
        pieces = []
        size = 0
        try:
            while (piece := await call.receive()) is not None:
                pieces.append(piece)
                size += len(piece)
                if self._max_body_bytes is not None and size > self._max_body_bytes:
                    raise InvalidRequestError(413, f"the body is longer than {self._max_body_bytes} bytes")
            args, kwargs = plan.bind(scope, b"".join(pieces))
        except (ConnectionLost, asyncio.CancelledError):
            self._finish_cancelled(call, context)
            return
        except Exception as error:
            self._respond_exception(call, context, error)
            return
        coroutine = self._start_method(call, context, scope, args, kwargs)
        if coroutine is not None:
            await coroutine

    async def _run(
        self,
        call: ServerCall,
        context: RequestContext,
        scope: Message,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        call.entered = True
        if context.expired:  # it has waited behind others of this event loop
            self._finish_cancelled(call, context)
            return
        try:
            result = encode_result(await function(*args, **kwargs))
            if type(result) is EncodedResponse and result.background is None and len(result.body) < LARGE_BODY:
                self._respond(call, result)
            else:
                await self._send_result(call, context, scope, result)
        except (asyncio.CancelledError, ConnectionLost):
            self._finish_cancelled(call, context)
        except BaseException as error:
            self._respond_exception(call, context, error)

    def _run_sync(
        self,
        call: ServerCall,
        context: RequestContext,
        scope: Message,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        service = self._service

        def done(value: Any, error: BaseException | None) -> None:
            if error is not None:
                if call.cancelled or isinstance(error, asyncio.CancelledError):
                    self._finish_cancelled(call, context)
                else:
                    self._respond_exception(call, context, error)
                return
            if not inspect.isawaitable(value):
                try:
                    result = encode_result(value)
                except Exception as failure:
                    self._respond_exception(call, context, failure)
                    return
                if type(result) is EncodedResponse and result.background is None and len(result.body) < LARGE_BODY:
                    self._respond(call, result)
                    return
                value = _value(value)
            call.task = task_of(context, service.loop, self._run(call, context, scope, lambda: value, (), {}))

        job = service.worker.submit(context.unless_expired(function), args, kwargs, done)

        def cancel() -> None:
            job.cancelled = True
            context.cancel_calls()

        call.on_cancel = cancel

    # Answers.

    def _respond(self, call: ServerCall, response: EncodedResponse, failure: str | None = None) -> None:
        service = self._service
        service.released(call, failure)
        header = with_ongoing(service.ongoing, encode((response.status, response.headers)))
        body = response.body
        call.respond(0, header, body if isinstance(body, bytes) else bytes(body))

    def _respond_exception(self, call: ServerCall, context: RequestContext, error: BaseException) -> None:
        response = response_for_exception(error, context.request_id)
        if response.status >= 500 and not isinstance(error, BackPressureError | RequestTimeoutError):
            trace = user_traceback(error)
            extra = in_request(context)
            logger.error(
                "request %s to %s failed: %s", context.request_id, self._service.deployment, trace, extra=extra
            )
            if context.span is not None:
                context.span.failed(error, trace)
        refused = response.status < 500 and response.status not in _UNANSWERED  # as the client's mistake
        failure = None if refused else type(error).__name__
        if call.finished:
            self._service.released(call, failure)
        else:
            self._respond(call, response, failure)

    def _finish_cancelled(self, call: ServerCall, context: RequestContext) -> None:
        context.cancel_calls()
        if call.cancelled or call.finished:
            self._service.released(call, CANCELLED)
        else:  # user code cancelled itself
            logger.error("request %s to %s failed: CancelledError", context.request_id, self._service.deployment)
            response = error_response(500, "the request was cancelled by the application", context.request_id)
            self._respond(call, response, CANCELLED)

    async def _send_result(self, call: ServerCall, context: RequestContext, scope: Message, result: Any) -> None:
        if type(result) is EncodedResponse:
            if len(result.body) < LARGE_BODY:
                if result.background is None:
                    self._respond(call, result)
                    return
                self._start(call, result.status, result.headers)
                await self._send_piece(call, bytes(result.body))
            else:
                self._start(call, result.status, result.headers)
                await send_large(call, result.body)
            end_stream(self._service, call)
            background = result.background
        elif type(result) is StreamingResult:
            self._start(call, result.status, result.headers)
            await self._send_stream(call, context, result)
            background = result.background
        else:
            assert isinstance(result, ASGIResult)
            await self._run_asgi_app(call, context, result.app, scope)
            return
        self._service.released(call)
        if background is not None:
            try:
                await background()
            except Exception as error:
                logger.error("a background task of request %s failed: %s", context.request_id, user_traceback(error))

    async def _send_stream(self, call: ServerCall, context: RequestContext, result: StreamingResult) -> None:
        """The pieces of a stream. An exception on the way cuts the connection: the status has been sent already."""
        chunks: AsyncIterator[bytes]
        if result.is_async:
            chunks = result.chunks(self._service.worker.run)
        else:
            chunks = iterate_in_thread(self._service.worker, result.sync_chunks())
        pieces = JoinedPieces(call)
        try:
            async for chunk in chunks:
                if pieces.add(chunk):
                    await call.writable()
            pieces.flush()
        except (asyncio.CancelledError, ConnectionLost):
            raise
        except Exception as error:
            pieces.flush()
            call.fail(0, with_ongoing(self._service.ongoing, encode(("stream", str(error)))))
            raise
        end_stream(self._service, call)

    def _start(self, call: ServerCall, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        call.start(0, with_ongoing(self._service.ongoing, encode((status, headers))))

    async def _send_piece(self, call: ServerCall, piece: bytes) -> None:
        if not call.is_writable:
            await call.writable()
        call.chunk(0, piece)

    # ASGI applications.

    async def _run_asgi_app(self, call: ServerCall, context: RequestContext, app: ASGIApp, scope: Message) -> None:
        call.entered = True
        if context.expired:
            self._finish_cancelled(call, context)
            return
        sender = AsgiSender(self._service, call)
        receive = _receiver(call)
        call.accept_body()
        try:
            await app(scope, receive, sender.send)
            if not sender.complete:
                raise RuntimeError("the ASGI application returned without completing its response")
        except (asyncio.CancelledError, ConnectionLost):
            self._finish_cancelled(call, context)
        except BaseException as error:
            if sender.started:
                call.fail(0, with_ongoing(self._service.ongoing, encode(("stream", str(error)))))
            self._respond_exception(call, context, error)
        else:
            self._service.released(call)

    async def _run_websocket(self, call: ServerCall, context: RequestContext, header: HttpHeader) -> None:
        call.entered = True
        scope = _scope(header)
        scope.pop("method")
        scope["type"] = "websocket"
        scope["subprotocols"] = header.subprotocols
        call.accept_body()
        connected = False
        failure = None

        async def receive() -> Message:
            nonlocal connected
            if not connected:
                connected = True
                return {"type": "websocket.connect"}
            try:
                piece = await call.receive()
            except ConnectionLost:
                piece = None
            return {"type": "websocket.disconnect", "code": 1006} if piece is None else decode_message(piece)

        async def send(message: Message) -> None:
            if not call.is_writable:
                await call.writable()
            call.chunk(0, encode_message(dict(message)))

        call.start(0, with_ongoing(self._service.ongoing))
        try:
            if self._asgi is None:
                await send({"type": "websocket.close", "code": 1003, "reason": "this deployment takes no WebSockets"})
            else:
                await self._asgi(scope, receive, send)
        except (asyncio.CancelledError, ConnectionLost):
            self._finish_cancelled(call, context)
            return
        except BaseException as error:
            failure = type(error).__name__
            logger.error("WebSocket %s failed: %s", context.request_id, user_traceback(error))
            call.chunk(0, encode_message({"type": "websocket.close", "code": 1011, "reason": "internal error"}))
        end_stream(self._service, call)
        self._service.released(call, failure)


def _scope(header: HttpHeader) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": header.http_version,
        "method": header.method,
        "scheme": header.scheme,
        "path": header.path,
        "raw_path": header.raw_path,
        "query_string": header.query_string,
        "root_path": header.root_path,
        "headers": header.headers,
        "client": header.client,
        "server": header.server,
        "state": {},
    }


def _receiver(call: ServerCall) -> Callable[[], Awaitable[Message]]:
    """An ASGI `receive` over a call: the body in one piece or in several, then nothing until the client leaves."""
    finished = False

    async def receive() -> Message:
        nonlocal finished
        if finished:
            # The task is cancelled when the client leaves, so there is nothing to say here.
            await asyncio.get_running_loop().create_future()
        if not call.flags & frames.MORE:
            finished = True
            return {"type": "http.request", "body": bytes(call.payload), "more_body": False}
        try:
            piece = await call.receive()
        except ConnectionLost:
            return {"type": "http.disconnect"}
        if piece is None:
            finished = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": piece, "more_body": True}

    return receive


async def _value(value: Any) -> Any:
    return value


def _returning(value: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: _value(value)
