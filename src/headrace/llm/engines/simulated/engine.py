"""The simulated engine: requests in, text at a stated pace out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

import msgspec

from headrace.exceptions import ConfigError
from headrace.llm.api.errors import ApiError, openai_body
from headrace.llm.config.llm_config import LLMConfig
from headrace.llm.engines.protocol import EngineLoad, EngineRequest, EngineResponse, LoadingProgress, ModelInfo
from headrace.llm.engines.simulated.embedding import embeddings_body
from headrace.llm.engines.simulated.events import ChatEvents, CompletionEvents, Events
from headrace.llm.engines.simulated.pace import Pace
from headrace.llm.engines.simulated.requests import (
    DEFAULT_COMPLETION_TOKENS,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    Sampled,
    TokenizeRequest,
    chat_prompt,
    check,
    read,
    stops_of,
)
from headrace.llm.engines.simulated.settings import SimulatedSettings
from headrace.llm.engines.simulated.text import Answer, count_tokens, text_of, token_ids
from headrace.llm.generation.anthropic_messages import answer_count_tokens, answer_messages
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.responses import answer_responses
from headrace.llm.generation.usage import Usage

EVENT_STREAM = "text/event-stream"


class SimulatedEngine:
    """Answers without a model; see `SimulatedSettings` for its pace.

    Args:
        config: its `engine_kwargs` are `SimulatedSettings`.

    Raises:
        ConfigError: one of them is unknown or wrong.
    """

    def __init__(self, config: LLMConfig) -> None:
        self._model_id = config.model_id
        self._has_adapters = config.lora_config is not None
        self._settings = SimulatedSettings(**config.engine_kwargs)
        self._turns = asyncio.Semaphore(self._settings.max_num_seqs)
        self._running = 0
        self._waiting = 0
        self._paths: dict[str, Callable[[EngineRequest], Awaitable[EngineResponse]]] = {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/embeddings": self._embeddings,
            "/v1/responses": self._responses,
            "/v1/messages": self._messages,
            "/v1/messages/count_tokens": self._count_tokens,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
        }

    async def start(self, report: Callable[[LoadingProgress], None]) -> ModelInfo:
        """Take as long as the settings say."""
        settings = self._settings
        steps = 10 if settings.loading_s else 1
        for step in range(steps):
            report(LoadingProgress("loading nothing (simulated engine)", (step + 1) / steps, 0))
            await asyncio.sleep(settings.loading_s / steps)
        return ModelInfo(
            self._model_id, settings.max_model_len, frozenset(self._paths), 0, "simulated", settings.max_num_seqs
        )

    async def respond(self, request: EngineRequest) -> EngineResponse:
        """Answer; a wrong request gets a response with status 4xx."""
        try:
            answer = self._paths.get(request.path)
            if answer is None:
                raise ApiError(404, f"the simulated engine does not answer {request.path}", code="not_found")
            return await answer(request)
        except ApiError as error:
            return EngineResponse(error.status, openai_body(error), headers=error.headers)

    async def check_health(self) -> None:
        """There is nothing that could fail."""

    def load(self) -> EngineLoad:
        """What is being answered; `kv_cache_use` is the share of `max_num_seqs`."""
        return EngineLoad(self._running, self._waiting, self._running / self._settings.max_num_seqs)

    async def add_adapter(self, name: str, path: str) -> None:
        """With `lora_config`, any name is one."""
        if not self._has_adapters:
            raise ConfigError(f"adapter '{name}': this model was started without lora_config")

    async def remove_adapter(self, name: str) -> None:
        """Nothing to forget."""

    async def sleep(self, level: int) -> None:
        """Holds no memory that it could free."""

    async def wake(self) -> None:
        """Nothing to load again."""

    async def stop(self) -> None:
        """Has no processes."""

    # Text.

    async def _chat(self, engine_request: EngineRequest) -> EngineResponse:
        request = read(engine_request.body, ChatRequest)
        check(request)
        prompt = chat_prompt(request.messages)
        limit = request.max_completion_tokens or request.max_tokens
        length, prompt_tokens = self._length(prompt, limit, "messages")
        stops = stops_of(request)
        about = self._about(prompt, request.model)
        answers = [Answer(about, request.seed, index, length, stops) for index in range(request.n or 1)]
        events = ChatEvents(f"chatcmpl-{engine_request.request_id}", request.model or self._model_id, int(time.time()))
        return await self._answer(request, events, answers, prompt_tokens, limit is not None)

    async def _completions(self, engine_request: EngineRequest) -> EngineResponse:
        request = read(engine_request.body, CompletionRequest)
        check(request)
        if request.echo:
            raise ApiError(400, "echo: not with the simulated engine", code="invalid_value", param="echo")
        limit = DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        answers: list[Answer] = []
        prompt_tokens = 0
        for prompt in _texts(request.prompt, "prompt"):
            length, count = self._length(prompt, limit, "prompt")
            prompt_tokens += count
            stops = stops_of(request)
            about = self._about(prompt, request.model)
            answers += [Answer(about, request.seed, index, length, stops) for index in range(request.n or 1)]
        events = CompletionEvents(
            f"cmpl-{engine_request.request_id}", request.model or self._model_id, int(time.time())
        )
        return await self._answer(request, events, answers, prompt_tokens, True)

    def _about(self, prompt: str, model: str) -> str:
        """What an answer's text follows from: an adapter answers otherwise than the model."""
        return prompt if model in ("", self._model_id) else f"{model}\0{prompt}"

    def _length(self, prompt: str, limit: int | None, param: str) -> tuple[int, int]:
        """Tokens of the answer, and of the prompt."""
        settings = self._settings
        prompt_tokens = count_tokens(prompt)
        wanted = settings.answer_tokens if limit is None else limit
        room = settings.max_model_len - prompt_tokens
        if room < 1 or (limit is not None and limit > room):
            raise ApiError(
                400,
                f"this model's context holds {settings.max_model_len} tokens, but {prompt_tokens + wanted} were "
                f"requested: {prompt_tokens} in the {param} and {wanted} for the answer",
                code="context_length_exceeded",
                param=param,
            )
        return min(wanted, room), prompt_tokens

    async def _answer(
        self, request: Sampled, events: Events, answers: Sequence[Answer], prompt_tokens: int, limited: bool
    ) -> EngineResponse:
        reasons = ["stop" if answer.stopped or not limited else "length" for answer in answers]
        completion_tokens = sum(answer.length for answer in answers)
        if request.stream:
            options = request.stream_options
            told = (prompt_tokens, completion_tokens) if options is not None and options.include_usage else None
            usage = Usage(prompt_tokens)
            return EngineResponse(200, self._stream(events, answers, reasons, told, usage), EVENT_STREAM, usage=usage)
        await self._turn()
        try:
            settings = self._settings
            longest = max(answer.length for answer in answers)
            await asyncio.sleep(settings.time_to_first_token_s + (longest - 1) * settings.time_per_output_token_s)
        finally:
            self._end_turn()
        texts = [answer.text() for answer in answers]
        whole = events.whole(texts, reasons, prompt_tokens, completion_tokens)
        return EngineResponse(200, whole, usage=Usage(prompt_tokens, completion_tokens))

    async def _stream(
        self,
        events: Events,
        answers: Sequence[Answer],
        reasons: Sequence[str],
        told: tuple[int, int] | None,
        usage: Usage,
    ) -> AsyncGenerator[bytes, None]:
        clock = asyncio.get_running_loop().time
        sent = 0
        await self._turn()
        try:
            settings = self._settings
            pace = Pace.joining(clock(), settings.time_to_first_token_s, settings.time_per_output_token_s)
            longest = max(answer.length for answer in answers)
            pieces = [events.begin(index) for index in range(len(answers))]
            while sent < longest:
                delay_s = pace.time_of(sent) - clock()
                await asyncio.sleep(delay_s if delay_s > 0 else 0)
                due = pace.due(clock(), sent, longest)
                for index, answer in enumerate(answers):
                    end = min(due, answer.length)
                    if sent < end:
                        pieces.append(events.tokens(index, answer.tokens(sent, end)))
                    if sent < answer.length <= due:
                        pieces.append(events.end(index, reasons[index]))
                sent = due
                if sent >= longest:
                    pieces.append(events.done(told))
                if pieces:
                    yield b"".join(pieces)
                    pieces = []
        finally:
            usage.completion_tokens = sum(min(sent, answer.length) for answer in answers)
            self._end_turn()

    async def _turn(self) -> None:
        """Wait for a place among those whose answers are generated."""
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        self._running += 1

    def _end_turn(self) -> None:
        self._running -= 1
        self._turns.release()

    # The other APIs of chats, which are chats in other words.

    async def _responses(self, engine_request: EngineRequest) -> EngineResponse:
        try:
            return await answer_responses(self.respond, engine_request)
        except RequestError as error:
            return error.as_response()

    async def _messages(self, engine_request: EngineRequest) -> EngineResponse:
        return await answer_messages(self.respond, engine_request)

    async def _count_tokens(self, engine_request: EngineRequest) -> EngineResponse:
        async def tokenize(request: EngineRequest) -> EngineResponse:
            return await self.respond(replace(request, path="/tokenize"))

        return await answer_count_tokens(tokenize, engine_request)

    # The rest.

    async def _embeddings(self, engine_request: EngineRequest) -> EngineResponse:
        request = read(engine_request.body, EmbeddingRequest)
        texts = _texts(request.input, "input")
        await self._turn()
        try:
            await asyncio.sleep(self._settings.time_to_first_token_s)
        finally:
            self._end_turn()
        dimensions = request.dimensions or self._settings.embedding_dimensions
        return EngineResponse(
            200, embeddings_body(texts, dimensions, request.encoding_format, request.model or self._model_id)
        )

    async def _tokenize(self, engine_request: EngineRequest) -> EngineResponse:
        request = read(engine_request.body, TokenizeRequest)
        if (request.prompt is None) == (request.messages is None):
            raise ApiError(400, "give one of prompt and messages", code="invalid_request", param="prompt")
        tokens = token_ids(chat_prompt(request.messages) if request.prompt is None else request.prompt)  # type: ignore[arg-type]
        answer = {"count": len(tokens), "max_model_len": self._settings.max_model_len, "tokens": tokens}
        if request.return_token_strs:
            answer["token_strs"] = [text_of([token]) for token in tokens]
        return EngineResponse(200, msgspec.json.encode(answer))

    async def _detokenize(self, engine_request: EngineRequest) -> EngineResponse:
        request = read(engine_request.body, DetokenizeRequest)
        return EngineResponse(200, msgspec.json.encode({"prompt": _text(request.tokens, "tokens")}))


def _texts(given: str | list[str | int | list[int]], param: str) -> list[str]:
    """Each text of a `prompt` or `input`, which may be one or several, as text or as tokens."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, f"{param}: must not be empty", code="invalid_value", param=param)
    texts: list[str] = []
    tokens: list[int] = []
    for item in given:
        if isinstance(item, int):
            tokens.append(item)
        else:
            texts.append(item if isinstance(item, str) else _text(item, param))
    return [*texts, _text(tokens, param)] if tokens else texts


def _text(tokens: Sequence[int], param: str) -> str:
    try:
        return text_of(tokens)
    except (ValueError, OverflowError) as error:
        raise ApiError(400, f"{param}: {error}", code="invalid_value", param=param) from None
