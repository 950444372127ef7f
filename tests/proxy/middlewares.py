"""Middlewares that tests name by their import path."""

from __future__ import annotations

from typing import Any


class Stamp:
    """Adds a response header, and answers `/stopped` itself."""

    def __init__(self, app: Any, name: str, value: str = "yes") -> None:
        self.app, self.name, self.value = app, name.encode(), value.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (self.name, self.value)]
            await send(message)

        if scope["type"] == "http" and scope["path"] == "/stopped":
            await stamped({"type": "http.response.start", "status": 418, "headers": [(b"content-length", b"0")]})
            await stamped({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, stamped)


class Refuses:
    def __init__(self, app: Any) -> None:
        raise ValueError("wrong licence key")
