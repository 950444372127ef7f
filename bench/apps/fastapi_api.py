"""The benchmark's applications in bare FastAPI on uvicorn, one process.

python fastapi_api.py APP PORT
"""

# mypy: ignore-errors
from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


async def noop() -> str:
    return "ok"


def noop_sync() -> str:
    return "ok"


async def tokens() -> AsyncIterator[str]:
    for number in range(100):
        yield f'data: {{"token": "word{number}"}}\n\n'


async def sse() -> StreamingResponse:
    return StreamingResponse(tokens(), media_type="text/event-stream")


ENDPOINTS = {"noop": noop, "noop-sync": noop_sync, "sse": sse}

if __name__ == "__main__":
    app.get("/")(ENDPOINTS[sys.argv[1]])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False)
