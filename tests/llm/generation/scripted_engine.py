"""A token engine that writes what a test tells it to, in tokens cut where the test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineLoad, EngineRequest, LoadingProgress
from headrace.llm.generation.detokenizer import WindowDetokenizer
from headrace.llm.generation.engine import GenerationEngine
from headrace.llm.generation.token_engine import (
    ChatTemplateError,
    ConstraintError,
    GenerationFailedError,
    OutputConstraint,
    SamplingParameters,
    Step,
    TokenLogprobs,
    TokenModel,
)

END = 256


class ByteTokenizer:
    """Every byte is a token; 256 ends a text."""

    vocabulary_size = 257

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(token_id for token_id in token_ids if token_id < 256).decode("utf-8", "replace")

    def token(self, token_id: int) -> tuple[str, bytes]:
        return self.decode([token_id]), bytes([token_id]) if token_id < 256 else b""

    def detokenizer(self, prompt: Sequence[int], *, skip_special_tokens: bool = True) -> WindowDetokenizer:
        return WindowDetokenizer(self.decode, prompt)

    def render_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> str:
        if messages[0]["role"] == "tool":
            raise ChatTemplateError("a chat cannot begin with a tool")
        return "".join(f"[{message['role']}]{message['content']}" for message in messages)


class ScriptedEngine:
    """
    Attributes:
        asked: the prompts and parameters of all calls.
        closed: so many answers were given up before their end.
    """

    def __init__(self, *scripts: str, tokens_per_step: int = 1, fails_after: int | None = None) -> None:
        """
        Args:
            scripts: the answers, in turn; the last again and again.
            fails_after: the engine gives up after so many tokens.
        """
        self._scripts = list(scripts)
        self._tokens_per_step = tokens_per_step
        self._fails_after = fails_after
        self.asked: list[tuple[list[int], SamplingParameters]] = []
        self.closed = 0

    async def start(self, report: Callable[[LoadingProgress], None]) -> TokenModel:
        return TokenModel(
            "scripted", "scripted", ByteTokenizer(), 1000, embeds=True, constraints=frozenset({"json_schema"})
        )

    async def generate(
        self, prompt: Sequence[int], sampling: SamplingParameters, *, adapter: str | None = None, priority: int = 0
    ) -> AsyncGenerator[Step, None]:
        self.asked.append((list(prompt), sampling))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        tokens = [*script.encode(), END][: sampling.max_tokens]
        ended = False
        try:
            for start in range(0, len(tokens), self._tokens_per_step):
                await asyncio.sleep(0)
                if self._fails_after is not None and start >= self._fails_after:
                    ended = True
                    raise GenerationFailedError("the model is out of memory")
                part = tokens[start : start + self._tokens_per_step]
                step = Step(part, cached_tokens=2 if start == 0 else 0)
                if sampling.logprobs is not None:
                    step.logprobs = [TokenLogprobs(token, -0.5, ((token, -0.5),)) for token in part]
                if start + len(part) >= len(tokens):
                    ended = True
                    step.ended_by_token = part[-1] == END
                    step.finish_reason = "stop" if step.ended_by_token else "length"
                yield step
        finally:
            self.closed += not ended

    async def check_constraint(self, constraint: OutputConstraint) -> None:
        if "impossible" in constraint.source:
            raise ConstraintError("no text can match this")

    async def embed(self, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.6, 0.8] for _ in prompts]

    async def check_health(self) -> None: ...

    def load(self) -> EngineLoad:
        return EngineLoad(0, 0)

    async def add_adapter(self, name: str, path: str) -> None: ...

    async def remove_adapter(self, name: str) -> None: ...

    async def sleep(self, level: int) -> None: ...

    async def wake(self) -> None: ...

    async def stop(self) -> None: ...


async def serve(engine: ScriptedEngine) -> GenerationEngine:
    """The engine behind the APIs, started."""
    served = GenerationEngine(engine)
    await served.start(lambda progress: None)
    return served


async def ask(engine: GenerationEngine, path: str, **body: Any) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    answer = await engine.respond(EngineRequest(path, msgspec.json.encode(body), "id"))
    assert isinstance(answer.body, bytes), "asked for one answer, got a stream"
    return answer.status, msgspec.json.decode(answer.body)


async def ask_stream(engine: GenerationEngine, path: str, **body: Any) -> list[Any]:
    """The data of all events of a streamed answer."""
    answer = await engine.respond(EngineRequest(path, msgspec.json.encode({**body, "stream": True}), "id"))
    assert not isinstance(answer.body, bytes), answer.body
    assert answer.media_type == "text/event-stream"
    text = b"".join([part async for part in answer.body])
    lines = [line for line in text.split(b"\n") if line.startswith(b"data: ")]
    return [line[6:].decode() if line == b"data: [DONE]" else msgspec.json.decode(line[6:]) for line in lines]


def chat(text: str = "hello") -> list[dict[str, Any]]:
    """Messages of one turn."""
    return [{"role": "user", "content": text}]


def streamed_text(events: list[Any], index: int = 0) -> str:
    """The content of a streamed chat."""
    choices = [choice for event in events if isinstance(event, dict) for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == index)
