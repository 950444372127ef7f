"""`RemotePrefill`: an engine that has its prompts computed by another deployment, where that can be had."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from headrace import DeploymentHandle, metrics
from headrace.exceptions import HeadraceError
from headrace.llm.api import HandleBackend
from headrace.llm.api.backend import Affinity
from headrace.llm.api.request_fields import read_fields
from headrace.llm.engines.protocol import (
    EngineLoad,
    EngineRequest,
    EngineResponse,
    InferenceEngine,
    LoadingProgress,
    ModelInfo,
)
from headrace.llm.kv_transfer import PARAMS, decode_fields, prefill_fields
from headrace.llm.routing.routing_hint import MAX_PREFIX_BYTES, RoutingHint

logger = logging.getLogger("headrace.llm")

_LOOKED_EVERY_S = 0.25


class RemotePrefill:
    """An engine whose prompts are computed elsewhere first.

    A prompt that cannot be computed there, because no replica is ready, one died and no other took over, or it refused,
    is computed by the engine itself.

    Args:
        engine: one that has started; it goes on from the KV cache that its connector fetches.
        model_id: that is served.
        prefill: the deployment that computes prompts; an `LLMServer`.
        hides_tools: see `kv_transfer.prefill_fields`.
    """

    def __init__(
        self, engine: InferenceEngine, model_id: str, prefill: DeploymentHandle[Any], hides_tools: bool = False
    ) -> None:
        self._engine = engine
        self._model_id = model_id
        # One token more or less is of no consequence: a prompt may be computed twice.
        self._handle = prefill.options(retryable=True)
        self._prefill = HandleBackend(self._handle)
        self._hides_tools = hides_tools
        self._prefills = metrics.Counter(
            "serve_llm_prefills",
            "Prompts that were to be computed by the prefill deployment: 'done', or 'failed' and computed by decode.",
            ("model", "outcome"),
        )

    async def respond(self, request: EngineRequest) -> EngineResponse:
        """See `InferenceEngine.respond`."""
        try:
            fields = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return await self._engine.respond(request)  # which says what is wrong with it
        if not isinstance(fields, dict):
            return await self._engine.respond(request)
        # From clients these would have an engine connect to wherever they say.
        given = fields.pop(PARAMS, None)
        asked = prefill_fields(request.path, fields, self._hides_tools)
        if asked is not None:
            answer = await self._computed(replace(request, body=msgspec.json.encode(asked)), fields)
            if answer is not None:
                return await self._engine.respond(
                    replace(request, body=msgspec.json.encode(decode_fields(fields, answer)))
                )
        if given is not None:
            request = replace(request, body=msgspec.json.encode(fields))
        return await self._engine.respond(request)

    async def _computed(self, request: EngineRequest, fields: dict[str, Any]) -> Any:
        """The prefill deployment's answer; None where it has none."""
        try:
            response = await self._ask(request, self._affinity(request, fields.get("model")))
            if response.status < 400 and isinstance(response.body, bytes):
                answer = msgspec.json.decode(response.body)
                self._prefills.inc(tags={"model": self._model_id, "outcome": "done"})
                return answer
            reason = f"status {response.status}"
        except HeadraceError as error:
            reason = f"{type(error).__name__}: {error}"
        self._prefills.inc(tags={"model": self._model_id, "outcome": "failed"})
        logger.warning("model %s: a prompt is computed by decode, since prefill failed: %s", self._model_id, reason)
        return None

    async def _ask(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
        """Raises as soon as no replica is left: the call would wait for the next, which may take minutes to load."""
        asking = asyncio.ensure_future(self._prefill.respond(request, affinity))
        try:
            while not asking.done():
                if not self._handle.running_replicas_populated():
                    raise HeadraceError("no replica is ready")
                await asyncio.wait({asking}, timeout=_LOOKED_EVERY_S)
            return asking.result()
        finally:
            asking.cancel()

    def _affinity(self, request: EngineRequest, model: Any) -> Affinity:
        adapter_id = model if isinstance(model, str) and model.startswith(f"{self._model_id}:") else ""
        fields = read_fields(request.body)
        hint = RoutingHint(bytes(fields.prompt_text[:MAX_PREFIX_BYTES]), adapter_id, fields.session)
        return Affinity(adapter_id, request.headers.get("x-session-id", ""), hint)

    # The rest is the engine's.

    async def start(self, report: Callable[[LoadingProgress], None]) -> ModelInfo:
        """See `InferenceEngine.start`."""
        return await self._engine.start(report)

    async def check_health(self) -> None:
        """See `InferenceEngine.check_health`."""
        await self._engine.check_health()

    def load(self) -> EngineLoad:
        """See `InferenceEngine.load`."""
        return self._engine.load()

    async def add_adapter(self, name: str, path: str) -> None:
        """See `InferenceEngine.add_adapter`."""
        await self._engine.add_adapter(name, path)

    async def remove_adapter(self, name: str) -> None:
        """See `InferenceEngine.remove_adapter`."""
        await self._engine.remove_adapter(name)

    async def sleep(self, level: int) -> None:
        """See `InferenceEngine.sleep`."""
        await self._engine.sleep(level)

    async def wake(self) -> None:
        """See `InferenceEngine.wake`."""
        await self._engine.wake()

    async def stop(self) -> None:
        """See `InferenceEngine.stop`."""
        await self._engine.stop()
