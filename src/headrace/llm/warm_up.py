"""Short requests to a model that has just been loaded.

The first request of its kind costs more than others: templates are compiled, kernels chosen, caches filled. Better now
than with a client's request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from headrace.llm.engines.protocol import EngineRequest, InferenceEngine, LoadingProgress, ModelInfo

logger = logging.getLogger("headrace.llm")

_HELLO = [{"role": "user", "content": "Hello"}]
_REQUESTS: dict[str, tuple[dict[str, object], ...]] = {
    "/v1/chat/completions": (
        {"messages": _HELLO, "max_tokens": 2},
        {"messages": _HELLO, "max_tokens": 2, "stream": True, "temperature": 0},
    ),
    "/v1/completions": ({"prompt": "Hello", "max_tokens": 2},),
    "/v1/embeddings": ({"input": "Hello"},),
    "/v1/score": ({"text_1": "Hello", "text_2": "Hello"},),
}


async def warm_up(engine: InferenceEngine, info: ModelInfo, report: Callable[[LoadingProgress], None]) -> None:
    """Have the model answer a short request of each kind that it can.

    A model that refuses one of them, since it has no chat template, say, refuses its clients' too, and may serve the
    others. The simulated engine has nothing that could get warm.

    Args:
        engine: started.
        info: what it serves.
        report: is told that this goes on.

    Raises:
        RuntimeError: the model fails at one: it would fail at its clients' requests.
    """
    if info.engine == "simulated":
        return
    report(LoadingProgress("warming up", None, info.weights_bytes))
    began = time.monotonic()
    for path, bodies in _REQUESTS.items():
        if path not in info.paths:
            continue
        for number, body in enumerate(bodies):
            content = msgspec.json.encode({"model": info.model_id, **body})
            await _ask(engine, EngineRequest(path, content, f"warmup-{number}", received_at=time.time()))
    logger.info("model %s is warm after %.1f s", info.model_id, time.monotonic() - began)


async def _ask(engine: InferenceEngine, request: EngineRequest) -> None:
    response = await engine.respond(request)
    body = response.body
    if not isinstance(body, bytes):
        try:
            async for _ in body:
                pass
        finally:
            await body.aclose()
    elif response.status >= 500:
        raise RuntimeError(f"the model failed at a first request to {request.path}: {body.decode(errors='replace')}")
    elif response.status >= 400:
        logger.warning("the model refuses %s: %s", request.path, body.decode(errors="replace"))
