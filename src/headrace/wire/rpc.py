"""Typed control-plane calls over the wire: msgspec values in, msgspec values out, one or a stream of them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import typing
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from headrace.wire import frames
from headrace.wire.callee import Listener, ServerCall, listen
from headrace.wire.caller import Call, CallerConnection, connect
from headrace.wire.errors import ConnectionLost, RpcError

logger = logging.getLogger("headrace.wire")

T = TypeVar("T")

Handler = Callable[..., Any]

_encode = msgspec.msgpack.Encoder().encode
_error_decode = msgspec.msgpack.Decoder(tuple[str, str]).decode


class _Method:
    """A handler with the type of its argument, read from its signature once."""

    __slots__ = ("decode", "function", "streams", "takes_body")

    def __init__(self, function: Handler) -> None:
        parameters = list(inspect.signature(function).parameters.values())
        hints = typing.get_type_hints(function)
        self.function = function
        self.takes_body = bool(parameters)
        body_type = hints.get(parameters[0].name, Any) if parameters else Any
        self.decode = msgspec.msgpack.Decoder(body_type).decode
        self.streams = inspect.isasyncgenfunction(function)


class RpcService:
    """Answers control calls by name. Also usable beside a data service: hand it the calls with `frames.CONTROL`.

    Args:
        handlers: name to `async def handler(body: SomeStruct) -> SomeStruct`, or an async generator for a stream.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._methods = {name: _Method(function) for name, function in handlers.items()}
        self._tasks: set[asyncio.Task[None]] = set()

    def request(self, call: ServerCall) -> None:
        task = call.connection.loop.create_task(self._answer(call))
        call.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def never_ran(self, call: ServerCall) -> None: ...

    async def _answer(self, call: ServerCall) -> None:
        call.entered = True
        name = call.header.decode("utf-8", "replace")
        try:
            method = self._methods.get(name)
            if method is None:
                raise LookupError(f"no control call named {name!r}")
            arguments = (method.decode(call.payload),) if method.takes_body else ()
            if method.streams:
                call.start(0, b"")
                async for item in method.function(*arguments):
                    await call.writable()
                    call.chunk(0, _encode(item))
                call.end()
            else:
                call.respond(0, b"", _encode(await method.function(*arguments)))
        except asyncio.CancelledError:
            if call.cancelled:
                raise
            call.fail(0, _encode(("CancelledError", f"{name} was cancelled where it ran")))
        except ConnectionLost:
            pass
        except Exception as error:
            logger.debug("control call %s failed", name, exc_info=True)
            call.fail(0, _encode((type(error).__name__, str(error))))


class RpcServer(RpcService):
    """An `RpcService` that may listen on sockets of its own, and refuses data calls there."""

    async def start(self, listener: socket.socket, secret: bytes) -> Listener:
        """Serve on a socket that is bound and listening."""
        return await listen(listener, secret, self)

    def request(self, call: ServerCall) -> None:
        if call.flags & frames.CONTROL:
            super().request(call)
        else:
            call.fail(0, _encode(("ProtocolViolation", "only control calls are answered here")))


class _Unary(Call):
    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[bytes | memoryview]) -> None:
        super().__init__()
        self.future = future

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def on_response(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        if not self.future.done():
            self.future.set_result(payload)

    def on_error(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self._fail(RpcError(*_error_decode(header)))

    def on_lost(self, error: ConnectionLost) -> None:
        self._fail(error)


class _Stream(Call):
    __slots__ = ("ended", "items", "loop", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.items: deque[bytes | memoryview] = deque()
        self.ended: Exception | bool = False
        self.waiter: asyncio.Future[None] | None = None

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def on_chunk(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.items.append(payload)
        self._wake()

    def on_end(self, header: bytes) -> None:
        self.ended = True
        self._wake()

    def on_error(self, flags: int, header: bytes, payload: bytes | memoryview) -> None:
        self.ended = RpcError(*_error_decode(header))
        self._wake()

    def on_lost(self, error: ConnectionLost) -> None:
        self.ended = error
        self._wake()

    async def next(self) -> bytes | memoryview | None:
        while not self.items:
            if self.ended is True:
                return None
            if self.ended:
                raise self.ended
            self.waiter = self.loop.create_future()
            await self.waiter
        item = self.items.popleft()
        self.took(len(item))
        return item


class RpcClient:
    """Calls the control methods of one peer. Lives on the event loop that it was connected on."""

    def __init__(self, connection: CallerConnection) -> None:
        self.connection = connection

    @classmethod
    async def connect(cls, address: str, secret: bytes, timeout_s: float = 5.0) -> RpcClient:
        """Connect to an address as `wire.address` reads it; raises as `caller.connect`."""
        return cls(await connect(address, secret, timeout_s=timeout_s))

    @property
    def closed(self) -> bool:
        return self.connection.closed

    @property
    def on_lost(self) -> Callable[[], None] | None:
        """Called once when the connection ends."""
        return self.connection.on_lost

    @on_lost.setter
    def on_lost(self, callback: Callable[[], None] | None) -> None:
        self.connection.on_lost = callback

    async def call(
        self, method: str, body: Any = None, *, type: type[T] | Any = Any, timeout_s: float | None = None
    ) -> T:
        """Call `method` and return its answer as `type`.

        Raises:
            RpcError: the handler raised.
            ConnectionLost: the peer went away before it answered.
            TimeoutError: no answer within `timeout_s` seconds.
        """
        call = _Unary(self.connection.loop.create_future())
        self.connection.call(call, frames.CONTROL, method.encode(), _encode(body))
        try:
            async with asyncio.timeout(timeout_s):
                payload = await call.future
        finally:
            call.abandon()
        return msgspec.msgpack.decode(payload, type=type)

    async def stream(self, method: str, body: Any = None, *, type: type[T] | Any = Any) -> AsyncIterator[T]:
        """Call a streaming `method`; raises as `call`, from the iteration."""
        call = _Stream(self.connection.loop)
        self.connection.call(call, frames.CONTROL | frames.STREAM, method.encode(), _encode(body))
        decoder = msgspec.msgpack.Decoder(type)
        try:
            while (item := await call.next()) is not None:
                yield decoder.decode(item)
        finally:
            call.abandon()

    def close(self) -> None:
        self.connection.close()


async def ask(
    address: str,
    secret: bytes,
    method: str,
    body: Any = None,
    *,
    type: type[T] | Any,
    connect_within_s: float,
    timeout_s: float,
) -> T:
    """One call over a connection of its own; raises as `RpcClient.connect` and `RpcClient.call`."""
    client = await RpcClient.connect(address, secret, timeout_s=connect_within_s)
    try:
        answer: T = await client.call(method, body, type=type, timeout_s=timeout_s)
        return answer
    finally:
        client.close()
