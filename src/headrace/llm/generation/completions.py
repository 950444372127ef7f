"""Plain completions: `/v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.choice_steps import ChoiceSteps, Steps
from headrace.llm.generation.completion_choice import CompletionChoice
from headrace.llm.generation.completion_events import CompletionEvents
from headrace.llm.generation.event_format import DONE
from headrace.llm.generation.output_constraint import check
from headrace.llm.generation.prompt_tokens import adapter_of, answer_room, encoded, truncated
from headrace.llm.generation.request_error import RequestError, engine_failure
from headrace.llm.generation.request_fields import CompletionRequest, parse
from headrace.llm.generation.sampling_choice import checked_logprobs, choices_of, for_choice, sampling_of, stops_of
from headrace.llm.generation.token_engine import GenerationFailedError, TokenEngine, TokenModel
from headrace.llm.generation.usage import Usage

Prompt = str | list[int]


class Completion:
    """One request: what it asked for, and the state of its choices."""

    def __init__(self, request: CompletionRequest, model: TokenModel, request_id: str) -> None:
        self._request = request
        self._model = model
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": request.model or model.model_id,
        }
        self._choices: list[CompletionChoice] = []
        self._usage = Usage(0)

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        return self._usage

    async def begin(self, engine: TokenEngine, priority: int) -> ChoiceSteps:
        """Check everything, and start to generate.

        Raises:
            RequestError: something of the request is wrong.
        """
        request, model = self._request, self._model
        await engine.check_health()
        if request.suffix:
            raise RequestError("suffix: this model writes on from a prompt, and cannot write up to a suffix", "suffix")
        count, stops = choices_of(request), stops_of(request)
        logprobs = checked_logprobs(request.logprobs, "logprobs")
        # Only what the prompt says: lm-eval and others score texts in this way.
        prompt_alone = bool(request.echo) and request.max_tokens == 0
        asked = 16 if request.max_tokens is None else 1 if prompt_alone else request.max_tokens
        adapter = adapter_of(request.model, model.model_id)
        generators: list[Steps] = []
        for prompt in prompts_of(request.prompt, "prompt"):
            tokens, text = await self._tokens(prompt)
            if request.max_tokens is None and len(tokens) < model.max_model_len:
                asked = min(asked, model.max_model_len - len(tokens))
            room = answer_room(len(tokens), asked, model.max_model_len, "max_tokens", "prompt")
            sampling = sampling_of(request, model, max_tokens=room, logprobs=logprobs)
            if request.echo and logprobs is not None:
                sampling = msgspec.structs.replace(sampling, prompt_logprobs=logprobs)
            if sampling.constraint is not None and not generators:
                await check(engine, sampling.constraint, request, False)
            self._usage.prompt_tokens += len(tokens)
            for number in range(count):
                index = len(self._choices)
                self._choices.append(
                    CompletionChoice(index, tokens, request, model.tokenizer, stops, text if request.echo else None)
                )
                generators.append(
                    engine.generate(tokens, for_choice(sampling, number), adapter=adapter, priority=priority)
                )
        return ChoiceSteps(generators)

    async def _tokens(self, prompt: Prompt) -> tuple[list[int], str]:
        request, tokenizer = self._request, self._model.tokenizer
        if isinstance(prompt, str):
            tokens = await encoded(tokenizer, prompt, add_special_tokens=request.add_special_tokens)
            return truncated(tokens, request.truncate_prompt_tokens, self._model.max_model_len), prompt
        for token_id in prompt:
            if not 0 <= token_id < tokenizer.vocabulary_size:
                raise RequestError(
                    f"prompt: {token_id} is no token of this model, which has {tokenizer.vocabulary_size}", "prompt"
                )
        tokens = truncated(prompt, request.truncate_prompt_tokens, self._model.max_model_len)
        return tokens, tokenizer.decode(tokens) if request.echo else ""

    async def whole(self, steps: ChoiceSteps) -> EngineResponse:
        """The answer as one."""
        open_choices = len(self._choices)
        async with aclosing(steps.steps()) as batches:
            async for batch in batches:
                for index, step in batch:
                    choice = self._choices[index]
                    if choice.ended:
                        continue
                    self._usage.add(step)
                    choice.collect(step)
                    if choice.ended:
                        open_choices -= 1
                        steps.end(index)
                if not open_choices:
                    break
        self._usage.completion_tokens = sum(choice.answer_tokens for choice in self._choices)
        choices = [choice.as_json() for choice in self._choices]
        return EngineResponse(
            200,
            msgspec.json.encode({**self._head, "choices": choices, "usage": self._usage.as_json()}),
            usage=self._usage,
        )

    async def stream(self, steps: ChoiceSteps) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        options = self._request.stream_options
        with_usage = bool(options and options.include_usage)
        events = CompletionEvents(
            self._head,
            len(self._choices),
            self._usage,
            usage_in_events=bool(with_usage and options and options.continuous_usage_stats),
        )
        open_choices = len(self._choices)
        try:
            async with aclosing(steps.steps()) as batches:
                async for batch in batches:
                    parts = []
                    for index, step in batch:
                        choice = self._choices[index]
                        if choice.ended:
                            continue
                        self._usage.add(step)
                        parts.append(events.of(choice, step))
                        if choice.ended:
                            open_choices -= 1
                            steps.end(index)
                    if not open_choices:
                        if with_usage:
                            parts.append(events.final_usage())
                        parts.append(DONE)
                        yield b"".join(parts)
                        return
                    ready = b"".join(parts)
                    if ready:
                        yield ready
        except GenerationFailedError as error:
            self._usage.failed = True
            yield b"data: " + engine_failure(error).as_json() + b"\n\n" + DONE


def prompts_of(given: str | list[Any], name: str) -> list[Prompt]:
    """One prompt or several, each a text or token ids.

    Raises:
        RequestError: it is neither; names the field.
    """
    if isinstance(given, str):
        return [given]
    if given and all(type(item) is int for item in given):
        return [given]
    if given and all(isinstance(item, str) for item in given):
        return list(given)
    if given and all(isinstance(item, list) and item and all(type(part) is int for part in item) for item in given):
        return list(given)
    raise RequestError(f"{name}: must be a text, token ids, or a list of one of them that is not empty", name)


async def answer_completion(engine: TokenEngine, model: TokenModel, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/completions`.

    Raises:
        RequestError: something of the request is wrong.
        GenerationFailedError: the engine gave up.
    """
    fields = parse(request.body, CompletionRequest)
    completion = Completion(fields, model, request.request_id)
    steps = await completion.begin(engine, request.priority)
    if fields.stream:
        return EngineResponse(200, completion.stream(steps), "text/event-stream", usage=completion.usage)
    return await completion.whole(steps)
