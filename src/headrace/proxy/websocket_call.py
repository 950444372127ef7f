"""A WebSocket on its way through the router: ASGI messages in both directions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from headrace.proxy.http_call import HttpCall
from headrace.router.headers import decode_message, encode_message

Message = MutableMapping[str, Any]


class WebSocketCall(HttpCall):
    """Each piece is one ASGI message, so pieces are not joined.

    Attributes:
        close_code: what the WebSocket was closed with, by whichever side; 1011 where something broke.
    """

    __slots__ = ("close_code",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_code = 1011

    async def messages(self, send: Callable[[Message], Awaitable[None]]) -> bool:
        """Pass on what the application sends, to its end.

        Returns:
            Whether the application closed the WebSocket.

        Raises:
            Exception: the replica broke off.
        """
        closed = False
        while True:
            pieces, self._chunks = self._chunks, []
            for piece in pieces:
                self.took(len(piece))
                message = decode_message(piece)
                if message["type"] == "websocket.close":
                    closed = True
                    self.close_code = message.get("code", 1000)
                await send(message)
            if self._chunks:
                continue
            if self._error is not None:
                raise self._error
            if self._ended:
                return closed
            self._waiter = self._loop.create_future()
            await self._waiter

    async def feed(self, receive: Callable[[], Awaitable[Message]]) -> None:
        """Pass on what the client sends, until it leaves."""
        await receive()  # websocket.connect: the replica makes its own
        while True:
            message = await receive()
            if not await self.writable():
                return
            self.send_body(encode_message(dict(message)))
            if message["type"] == "websocket.disconnect":
                self.close_code = message.get("code", 1006)
                self.end_body()
                return
