"""Applications over the simulated engine. Classes are made in functions, so that replicas need not import the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headrace as serve
from headrace.llm import LLMServer
from headrace.llm.api import HandleBackend, HandleLimiter, RateLimiter, create_front, read_api_keys
from headrace.llm.engines.protocol import EngineRequest, EngineResponse

from .conftest import MODEL, simulated_config

LIMITS = {"max_ongoing_requests": 1000}


def model(notes: Path | None = None, options: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A model's deployment, called "Model", which notes each request that it begins with."""

    class NotingServer(LLMServer):
        async def answer(self, request: EngineRequest) -> EngineResponse:
            if notes is not None:
                with notes.open("a") as file:
                    file.write(f"{request.request_id} {serve.get_replica_context().replica_id.unique_id}\n")
            return await super().answer(request)

    deployment = serve.deployment(**{**LIMITS, **(options or {}), "name": "Model"})(NotingServer)
    return deployment.bind(simulated_config(**settings))


def behind_front(
    model: Any, api_keys: list[Any] | None = None, ingress_replicas: int = 1, options: dict[str, Any] | None = None
) -> Any:
    """A front in replicas of its own, with one model."""
    keys = read_api_keys(api_keys or [])

    @serve.deployment(name="Front", num_replicas=ingress_replicas, **{**LIMITS, **(options or {})})
    @serve.ingress()
    class Front:
        def __init__(self, handle: Any, limiter: Any) -> None:
            self.handle = handle
            self.limiter = limiter

        def __serve_build_asgi_app__(self) -> Any:
            limiter = None if self.limiter is None else HandleLimiter(self.limiter)
            return create_front({MODEL: HandleBackend(self.handle)}, api_keys=keys, limiter=limiter)

    limiter = serve.deployment(RateLimiter).options(**LIMITS).bind(keys) if keys else None
    return Front.bind(model, limiter)
