"""Reading a request's body, up to a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any

from headrace.llm.api.asgi import Receive
from headrace.llm.api.errors import ApiError


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """All of the body, or None where the client left before it was there.

    Args:
        limit: longest body, bytes.

    Raises:
        ApiError: 413.
    """
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
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


def _too_large(limit: int) -> ApiError:
    # Closing spares reading the rest of the body.
    return ApiError(
        413, f"the body is longer than {limit} bytes", code="request_too_large", headers={"connection": "close"}
    )


async def unless_disconnected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do `work`, and leave it when the client hangs up. For requests whose body has been read."""
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
