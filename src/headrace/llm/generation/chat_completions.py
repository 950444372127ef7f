"""Chats: `/v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.answer_text import AnswerText
from headrace.llm.generation.chat_choice import ChatChoice
from headrace.llm.generation.chat_events import ChatEvents
from headrace.llm.generation.chat_messages import template_messages
from headrace.llm.generation.choice_steps import ChoiceSteps
from headrace.llm.generation.event_format import DONE
from headrace.llm.generation.output_constraint import check
from headrace.llm.generation.prompt_tokens import adapter_of, answer_room, encoded, refuse_template, rendered, truncated
from headrace.llm.generation.request_error import RequestError, engine_failure
from headrace.llm.generation.request_fields import ChatCompletionRequest, parse
from headrace.llm.generation.sampling_choice import checked_logprobs, choices_of, for_choice, sampling_of, stops_of
from headrace.llm.generation.stop_strings import StopStringScanner
from headrace.llm.generation.token_engine import GenerationFailedError, SamplingParameters, TokenEngine, TokenModel
from headrace.llm.generation.token_logprobs_json import chat_logprobs
from headrace.llm.generation.tool_choice import ToolUse, tool_use_of
from headrace.llm.generation.usage import Usage


class ChatCompletion:
    """One request: what it asked for, and the state of its choices."""

    def __init__(self, request: ChatCompletionRequest, model: TokenModel, request_id: str) -> None:
        self._request = request
        self._model = model
        self._name = request.model or model.model_id
        self._id = f"chatcmpl-{request_id}"
        self._created = int(time.time())
        self._choices: list[ChatChoice] = []
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
        tools = tool_use_of(request, model)
        count, stops = choices_of(request), stops_of(request)
        if request.top_logprobs is not None and not request.logprobs:
            raise RequestError("top_logprobs: needs `logprobs` to be true", "top_logprobs")
        logprobs = checked_logprobs(request.top_logprobs or 0, "top_logprobs") if request.logprobs else None
        prompt = await self._prompt(tools)
        asked = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
        name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        room = answer_room(len(prompt), asked, model.max_model_len, name, "messages")
        sampling = sampling_of(request, model, max_tokens=room, logprobs=logprobs, constraint=tools.constraint)
        if sampling.constraint is not None:
            await check(engine, sampling.constraint, request, tools.constraint is not None)
        self._usage = Usage(len(prompt))
        self._choices = [self._choice(index, prompt, stops, sampling, tools) for index in range(count)]
        adapter = adapter_of(request.model, model.model_id)
        return ChoiceSteps(
            [
                engine.generate(prompt, for_choice(sampling, index), adapter=adapter, priority=priority)
                for index in range(count)
            ]
        )

    async def _prompt(self, tools: ToolUse) -> list[int]:
        request = self._request
        refuse_template(request.chat_template)
        arguments = dict(request.chat_template_kwargs or {})
        if request.documents is not None:
            arguments["documents"] = request.documents
        if request.reasoning_effort is not None:
            arguments["reasoning_effort"] = request.reasoning_effort
        text = rendered(
            self._model.tokenizer,
            template_messages(request.messages),
            tools=tools.tools,
            add_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
            continue_final_message=request.continue_final_message,
            template_arguments=arguments,
        )
        tokens = await encoded(self._model.tokenizer, text, add_special_tokens=request.add_special_tokens)
        return truncated(tokens, request.truncate_prompt_tokens, self._model.max_model_len)

    def _choice(
        self, index: int, prompt: list[int], stops: tuple[str, ...], sampling: SamplingParameters, tools: ToolUse
    ) -> ChatChoice:
        request = self._request
        detokenizer = self._model.tokenizer.detokenizer(prompt, skip_special_tokens=request.skip_special_tokens)
        scanner = StopStringScanner(stops, include=request.include_stop_str_in_output) if stops else None
        text = AnswerText(detokenizer, scanner, request.min_tokens)
        echo = ""
        if request.echo and request.messages[-1].get("role") == "assistant":
            echo = template_messages(request.messages[-1:])[0]["content"]
        return ChatChoice(index, text, sampling.stop_token_ids, tools.parser(), echo)

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
        self._usage.completion_tokens = sum(choice.text.tokens for choice in self._choices)
        answer = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._name,
            "choices": [self._as_json(choice) for choice in self._choices],
            "usage": self._usage.as_json(),
        }
        return EngineResponse(200, msgspec.json.encode(answer), usage=self._usage)

    def _as_json(self, choice: ChatChoice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
        if choice.calls:
            message["tool_calls"] = choice.calls
            message["content"] = choice.content or None
        logprobs = chat_logprobs(choice.logprobs, self._model.tokenizer) if self._request.logprobs else None
        return {
            "index": choice.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.text.stop_reason,
        }

    async def stream(self, steps: ChoiceSteps) -> AsyncGenerator[bytes, None]:
        """The answer as events."""
        request = self._request
        options = request.stream_options
        usage = self._usage
        events = ChatEvents(
            self._id,
            self._created,
            self._name,
            len(self._choices),
            usage,
            tokenizer=self._model.tokenizer if request.logprobs else None,
            usage_in_events=bool(options and options.include_usage and options.continuous_usage_stats),
        )
        choices = self._choices
        open_choices = len(choices)
        try:
            async with aclosing(steps.steps()) as batches:
                async for batch in batches:
                    parts = []
                    for index, step in batch:
                        choice = choices[index]
                        if choice.ended:
                            continue
                        usage.add(step)
                        parts.append(events.of(choice, step))
                        if choice.ended:
                            open_choices -= 1
                            steps.end(index)
                    if not open_choices:
                        if options and options.include_usage:
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


async def answer_chat(engine: TokenEngine, model: TokenModel, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/chat/completions`.

    Raises:
        RequestError: something of the request is wrong.
        GenerationFailedError: the engine gave up.
    """
    fields = parse(request.body, ChatCompletionRequest)
    chat = ChatCompletion(fields, model, request.request_id)
    steps = await chat.begin(engine, request.priority)
    if fields.stream:
        return EngineResponse(200, chat.stream(steps), "text/event-stream", usage=chat.usage)
    return await chat.whole(steps)
