"""What stands behind a model id of the API: something that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from headrace.llm.engines.protocol import EngineRequest, EngineResponse, ModelInfo
from headrace.llm.routing import RoutingHint


class Affinity(NamedTuple):
    """What the choice of a replica may go by.

    Attributes:
        adapter_id: the full id of a LoRA adapter (`base:adapter`) that the request asks for, "" for the base model.
        session_id: what the client named its session, by the header `x-session-id`; "" for none.
        hint: the prompt, for policies that go by it; None where the request has none.
    """

    adapter_id: str = ""
    session_id: str = ""
    hint: RoutingHint | None = None


class Backend(Protocol):
    """A model that answers, in this process or behind a handle."""

    @property
    def info(self) -> ModelInfo | None:
        """What is served; None before it was asked for."""

    @property
    def adapters(self) -> Sequence[str] | None:
        """Names of the LoRA adapters that clients may ask for as `<model id>:<name>`, as far as they are known
        beforehand. None where the model takes none at all."""

    async def ask_info(self) -> ModelInfo:
        """Find out what is served, waiting for the model if need be; `info` tells it from then on.

        Raises:
            HeadraceError: nothing answers.
        """

    async def refresh_info(self) -> None:
        """Find out anew what is served, if the model can tell at once: it may have been updated."""

    async def respond(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
        """Answer. Cancelling this call, or closing the body's generator, ends the generation.

        Raises:
            HeadraceError: nothing answers: overloaded, unavailable, out of time.
        """

    async def check_health(self) -> None:
        """Raises unless the model can answer now."""


class LocalBackend:
    """A model in this process.

    Args:
        answer: what answers a request: `InferenceEngine.respond`, or something around it.
        check_health: raises where the model cannot answer: `InferenceEngine.check_health`.
        info: what the engine told when it started.
        adapters: see `Backend.adapters`.
    """

    def __init__(
        self,
        answer: Callable[[EngineRequest], Awaitable[EngineResponse]],
        check_health: Callable[[], Awaitable[None]],
        info: ModelInfo,
        adapters: Sequence[str] | None = None,
    ) -> None:
        self._answer = answer
        self._check_health = check_health
        self.info = info
        self.adapters = adapters

    async def ask_info(self) -> ModelInfo:
        """See `Backend`."""
        return self.info

    async def refresh_info(self) -> None:
        """See `Backend`. In this process nothing changes."""

    async def respond(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
        """See `Backend`."""
        return await self._answer(request)

    async def check_health(self) -> None:
        """See `Backend`."""
        await self._check_health()
