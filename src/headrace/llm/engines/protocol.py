"""What runs a model: the seam between serving and inference.

An inference engine answers requests of the OpenAI API (and its kin) in the form in which clients send them: a path and
a JSON body in, a JSON body or an event stream out. At this level engines differ least, and one that has an OpenAI
serving layer of its own (vLLM) keeps all of it: chat templates, tools, reasoning, log probabilities, structured output.
Engines that only turn tokens into tokens get that layer from `headrace.llm.generation`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request, as the client sent it.

    Attributes:
        path: of the API, without any route prefix: "/v1/chat/completions".
        body: the client's JSON; its `model` is the id of the base model or of an adapter (`base:adapter`).
        request_id: the client's `x-request-id`, else the proxy's.
        headers: those that an engine may need, names in lower case.
        received_at: `time.time()` when the front of the API had read it.
        priority: lower is served first, where the engine has priorities; offline batches send 1.
    """

    path: str
    body: bytes
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    received_at: float = 0.0
    priority: int = 0


class TokenUsage(Protocol):
    """How many tokens an answer took. An engine counts while it answers; read when the answer has ended, whichever
    way."""

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt, or of all prompts."""

    @property
    def completion_tokens(self) -> int:
        """Of all choices."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the KV cache had already."""

    @property
    def failed(self) -> bool:
        """The engine gave up on an answer that had begun, and said so in the stream."""


@dataclass(slots=True)
class AnswerTimes:
    """When an answer was made, by `time.time()` of the replica's machine; 0 for what has not happened.

    Attributes:
        asked_at: the engine was asked.
        first_at: its first piece was there.
        last_at: its last piece was there.
        tokens: that the answer has.
    """

    asked_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """An answer: all of it, or its parts as they come.

    Attributes:
        status: HTTP status. Errors have a body in OpenAI's shape.
        body: the whole, or a generator of bytes, each any number of server-sent events that are ready. Closing the
            generator ends the generation at once and frees what it held.
        media_type: "application/json" or "text/event-stream".
        headers: more of them, such as `retry-after`.
        usage: what the answer takes; None where the engine does not count, or there are no tokens.
        times: of a streamed answer, filled in by the server around the engine; an engine leaves it None.
    """

    status: int
    body: bytes | AsyncGenerator[bytes, None]
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    usage: TokenUsage | None = None
    times: AnswerTimes | None = None


@dataclass(frozen=True, slots=True)
class LoadingProgress:
    """How far a model is on its way into memory.

    Attributes:
        stage: "downloading", "loading weights", "warming up", …
        fraction: of this stage that is done, from 0 to 1; None where nobody knows.
        memory_bytes: what the weights take, once known.
    """

    stage: str
    fraction: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is served, told when an engine has started.

    Attributes:
        model_id: as clients name it.
        max_model_len: tokens of prompt and answer together.
        paths: of the API that this engine answers for this model: "/v1/chat/completions", "/v1/embeddings", …
        weights_bytes: memory that the weights take; None where unknown.
        engine: its name: "vllm", "transformers", "llamacpp", "simulated".
        max_num_seqs: answers that it generates at a time; None where it does not say.
    """

    model_id: str
    max_model_len: int
    paths: frozenset[str]
    weights_bytes: int | None
    engine: str
    max_num_seqs: int | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine is busy with.

    Attributes:
        running: requests that are being generated.
        waiting: requests that wait for a place in the batch.
        kv_cache_use: share of the KV cache in use, from 0 to 1; None where the engine has none or cannot tell.
    """

    running: int
    waiting: int
    kv_cache_use: float | None = None


class InferenceEngine(Protocol):
    """Runs one model. Made in the replica with its `LLMConfig`; every method runs on the replica's event loop."""

    async def start(self, report: Callable[[LoadingProgress], None]) -> ModelInfo:
        """Load the model and warm it up; returns when it can answer.

        Raises:
            ConfigError: the model or an argument is wrong; names it.
        """

    async def respond(self, request: EngineRequest) -> EngineResponse:
        """Answer. Cancelling this call, or closing the body's generator, ends the generation and frees its memory.

        A wrong request gets a response with status 4xx, not an exception.
        """

    async def check_health(self) -> None:
        """Raises if the model cannot answer any more."""

    def load(self) -> EngineLoad:
        """What it is busy with now; cheap."""

    async def add_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter from a folder, to be asked for as `<model id>:<name>`.

        Raises:
            ConfigError: the engine has no adapters, or this folder holds none that fits.
        """

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter; what it is generating is finished first."""

    async def sleep(self, level: int) -> None:
        """Free the model's memory: 1 keeps the weights in main memory, 2 drops them too."""

    async def wake(self) -> None:
        """Be as before `sleep`."""

    async def stop(self) -> None:
        """End the engine and every process it started. What is being generated ends with it."""
