"""The bodies of requests: their fields, as OpenAI and vLLM name them.

Fields that are not listed are ignored, as vLLM ignores them. Those that are listed and cannot be honoured are refused.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from headrace.llm.generation.request_error import RequestError


class StreamOptions(msgspec.Struct, kw_only=True):
    """When a stream tells how many tokens were used."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class SamplingFields(msgspec.Struct, kw_only=True):
    """What chats and completions have in common."""

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    skip_special_tokens: bool = True
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    use_beam_search: bool = False
    truncate_prompt_tokens: int | None = None
    prompt_logprobs: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None


class ChatCompletionRequest(SamplingFields, kw_only=True):
    """The body of `/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: str | None = None
    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(SamplingFields, kw_only=True):
    """The body of `/v1/completions`."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None
    add_special_tokens: bool = True


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/tokenize`: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of `/detokenize`."""

    model: str | None = None
    tokens: list[int]


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The body of `/v1/embeddings`."""

    model: str | None = None
    input: str | list[Any]
    encoding_format: str = "float"
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None


RequestT = TypeVar("RequestT", bound=msgspec.Struct)

_decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {}
_MISSING = re.compile(r"missing required field `([^`]+)`")
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")


def parse(body: bytes, fields: type[RequestT]) -> RequestT:
    """A body as its fields.

    Raises:
        RequestError: it is no JSON, or a field has the wrong type or is missing; names the field.
    """
    decoder = _decoders.get(fields)
    if decoder is None:
        decoder = _decoders[fields] = msgspec.json.Decoder(fields)
    try:
        parsed: RequestT = decoder.decode(body)
        return parsed
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"The body is not valid JSON: {error}") from None


def _named(text: str) -> RequestError:
    """msgspec's message, with the field that it is about."""
    path = _PATH.search(text)
    where = path.group(1) if path else ""
    reason = text[: path.start()] if path else text
    missing = _MISSING.search(reason)
    if missing:
        where = f"{where}.{missing.group(1)}" if where else missing.group(1)
        return RequestError(f"{where}: this field is required", where)
    if not where:
        return RequestError(f"The body is not a JSON object: {reason}")
    return RequestError(f"{where}: {reason[0].lower()}{reason[1:]}", where)
