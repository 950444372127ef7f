"""What stands behind a model id of the API: something that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from headrace.llm.engines.protocol import EngineRequest, EngineResponse, ModelInfo
from headrace.llm.routing.prompt_prefix import PromptPrefix


class Affinity(NamedTuple):
    """What the choice of a replica may go by.

    Attributes:
        adapter_id: the full id of a LoRA adapter (`base:adapter`) that the request asks for, "" for the base model.
        session_id: what the client named its session, by the header `x-session-id`; "" for none.
        prefix: the beginning of the prompt; None where the request has no text.
    """

    adapter_id: str = ""
    session_id: str = ""
    prefix: PromptPrefix | None = None


class Backend(Protocol):
    """A model that answers, in this process or behind a handle."""

    @property
    def info(self) -> ModelInfo | None:
        """What is served, as last heard; None before the model has told."""

    @property
    def adapters(self) -> Sequence[str] | None:
        """Names of the LoRA adapters that clients may ask for as `<model id>:<name>`, as far as they are known
        beforehand. None where the model takes none at all."""

    async def respond(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
        """Answer. Cancelling this call, or closing the body's generator, ends the generation.

        Raises:
            HeadraceError: nothing answers: overloaded, unavailable, out of time.
        """

    async def check_health(self) -> None:
        """Raises unless the model can answer now."""


class Responder(Protocol):
    """An inference engine, as far as an API needs it; `InferenceEngine` and `LLMServer` are such."""

    async def respond(self, request: EngineRequest) -> EngineResponse: ...

    async def check_health(self) -> None: ...


class LocalBackend:
    """A model in this process.

    Args:
        engine: what answers.
        info: what it told when it started, or a function that returns what is true now.
        adapters: see `Backend.adapters`.
    """

    def __init__(
        self,
        engine: Responder,
        info: ModelInfo | Callable[[], ModelInfo | None],
        adapters: Sequence[str] | None = None,
    ) -> None:
        self._engine = engine
        self._info = info
        self.adapters = adapters

    @property
    def info(self) -> ModelInfo | None:
        return self._info() if callable(self._info) else self._info

    def respond(self, request: EngineRequest, affinity: Affinity) -> Awaitable[EngineResponse]:
        return self._engine.respond(request)

    def check_health(self) -> Awaitable[None]:
        return self._engine.check_health()
