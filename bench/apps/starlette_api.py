"""The benchmark's applications in bare Starlette on uvicorn, one process: what HTTP in Python costs without serving.

python starlette_api.py APP PORT
"""

# mypy: ignore-errors
from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route


async def noop(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


def noop_sync(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def tokens() -> AsyncIterator[str]:
    for number in range(100):
        yield f'data: {{"token": "word{number}"}}\n\n'


async def sse(request: Request) -> StreamingResponse:
    return StreamingResponse(tokens(), media_type="text/event-stream")


ENDPOINTS = {"noop": noop, "noop-sync": noop_sync, "sse": sse}

if __name__ == "__main__":
    application = Starlette(routes=[Route("/", ENDPOINTS[sys.argv[1]])])
    uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[2]), access_log=False)
