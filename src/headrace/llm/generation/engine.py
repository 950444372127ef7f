"""Serves a token engine as the APIs have it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.llm.engines.protocol import EngineLoad, EngineRequest, EngineResponse, LoadingProgress, ModelInfo
from headrace.llm.generation.anthropic_messages import answer_count_tokens, answer_messages
from headrace.llm.generation.chat_completions import answer_chat
from headrace.llm.generation.completions import answer_completion
from headrace.llm.generation.embeddings import answer_embeddings
from headrace.llm.generation.request_error import RequestError, engine_failure
from headrace.llm.generation.responses import answer_responses
from headrace.llm.generation.token_engine import GenerationFailedError, TokenEngine, TokenModel
from headrace.llm.generation.tokenization import answer_detokenize, answer_tokenize

Answer = Callable[[EngineRequest], Awaitable[EngineResponse]]


class GenerationEngine:
    """An `InferenceEngine` over a `TokenEngine`."""

    def __init__(self, engine: TokenEngine) -> None:
        self._engine = engine
        self._answers: dict[str, Answer] = {}

    async def start(self, report: Callable[[LoadingProgress], None]) -> ModelInfo:
        """See `InferenceEngine.start`."""
        model = await self._engine.start(report)
        self._answers = self._by_path(model)
        return ModelInfo(
            model.model_id,
            model.max_model_len,
            frozenset(self._answers),
            model.weights_bytes,
            model.engine,
            model.max_sequences,
        )

    def _by_path(self, model: TokenModel) -> dict[str, Answer]:
        engine = self._engine

        async def chat(request: EngineRequest) -> EngineResponse:
            return await answer_chat(engine, model, request)

        async def completion(request: EngineRequest) -> EngineResponse:
            return await answer_completion(engine, model, request)

        async def embeddings(request: EngineRequest) -> EngineResponse:
            return await answer_embeddings(engine, model, request)

        async def tokenize(request: EngineRequest) -> EngineResponse:
            return await answer_tokenize(model, request)

        async def detokenize(request: EngineRequest) -> EngineResponse:
            return await answer_detokenize(model, request)

        async def checked_chat(request: EngineRequest) -> EngineResponse:
            return await _errors_answered(chat, request)

        async def checked_tokenize(request: EngineRequest) -> EngineResponse:
            return await _errors_answered(tokenize, request)

        async def responses(request: EngineRequest) -> EngineResponse:
            return await answer_responses(checked_chat, request)

        async def messages(request: EngineRequest) -> EngineResponse:
            return await answer_messages(checked_chat, request)

        async def count_tokens(request: EngineRequest) -> EngineResponse:
            return await answer_count_tokens(checked_tokenize, request)

        answers: dict[str, Answer] = {"/tokenize": tokenize, "/detokenize": detokenize}
        if model.generates:
            answers["/v1/completions"] = completion
            if model.chats:
                answers["/v1/chat/completions"] = chat
                answers["/v1/responses"] = responses
                answers["/v1/messages"] = messages
                answers["/v1/messages/count_tokens"] = count_tokens
        if model.embeds:
            answers["/v1/embeddings"] = embeddings
        return answers

    async def respond(self, request: EngineRequest) -> EngineResponse:
        """See `InferenceEngine.respond`."""
        answer = self._answers.get(request.path)
        if answer is None:
            known = ", ".join(sorted(self._answers)) or "nothing: it has not started"
            return RequestError(
                f"This model does not answer {request.path}. It answers {known}", status=404, code="unknown_path"
            ).as_response()
        return await _errors_answered(answer, request)

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


async def _errors_answered(answer: Answer, request: EngineRequest) -> EngineResponse:
    try:
        return await answer(request)
    except RequestError as error:
        return error.as_response()
    except GenerationFailedError as error:
        return engine_failure(error).as_response()
