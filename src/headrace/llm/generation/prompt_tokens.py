"""From a request to the tokens of its prompt, and the room that they leave for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from headrace.llm.generation.request_error import RequestError, context_too_long
from headrace.llm.generation.token_engine import ChatTemplateError, Tokenizer

# Tokenizing so many characters takes less than a thread's hand-over costs the loop's other requests.
_INLINE_CHARACTERS = 4096


async def encoded(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """The tokens of a text; a long one is encoded on a thread."""
    if len(text) <= _INLINE_CHARACTERS:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=add_special_tokens)


def rendered(
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    *,
    tools: list[dict[str, Any]] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    template_arguments: Mapping[str, Any] | None,
) -> str:
    """The text of a chat.

    Raises:
        RequestError: the template refuses these messages, or there is none.
    """
    try:
        return tokenizer.render_chat(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_arguments=template_arguments,
        )
    except ChatTemplateError as error:
        raise RequestError(f"messages: {error}", "messages") from None


def refuse_template(chat_template: str | None) -> None:
    """Templates are programs, and those of clients may never end.

    Raises:
        RequestError: the client sent one.
    """
    if chat_template is not None:
        raise RequestError(
            "chat_template: templates of clients are not run; the engine's argument `chat_template` sets one",
            "chat_template",
        )


def truncated(tokens: list[int], limit: int | None, max_model_len: int) -> list[int]:
    """The last `truncate_prompt_tokens` tokens; -1: as many as the model takes.

    Raises:
        RequestError: the limit is out of its range.
    """
    if limit is None:
        return tokens
    if limit < -1 or limit == 0 or limit > max_model_len:
        raise RequestError(
            f"truncate_prompt_tokens: must be from 1 to {max_model_len} (-1: as many as fit), not {limit}",
            "truncate_prompt_tokens",
        )
    return tokens[-(max_model_len - 1 if limit == -1 else limit) :]


def answer_room(prompt_tokens: int, asked: int | None, max_model_len: int, asked_by: str, prompt_in: str) -> int:
    """How many tokens the answer may have.

    Args:
        asked: as the client said; None: as many as there is room for.
        asked_by: the field that said so.
        prompt_in: the field that holds the prompt.

    Raises:
        RequestError: prompt and answer do not fit together, or one of them is empty.
    """
    if asked is not None and asked < 1:
        raise RequestError(f"{asked_by}: must be 1 or more, not {asked}", asked_by)
    if prompt_tokens == 0:
        raise RequestError(f"{prompt_in}: has no tokens", prompt_in)
    if prompt_tokens + (asked or 1) > max_model_len:
        raise context_too_long(max_model_len, prompt_tokens, asked or 0, prompt_in)
    return max_model_len - prompt_tokens if asked is None else asked


def adapter_of(model: str | None, model_id: str) -> str | None:
    """The adapter that a request's `model` means (`<model id>:<adapter>`); None: the base model."""
    if model and model.startswith(model_id + ":"):
        return model[len(model_id) + 1 :]
    return None
