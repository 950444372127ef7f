"""Text to tokens and back: `/tokenize` and `/detokenize`."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.chat_messages import template_messages
from headrace.llm.generation.prompt_tokens import encoded, refuse_template, rendered
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import DetokenizeRequest, TokenizeRequest, parse
from headrace.llm.generation.token_engine import TokenModel


async def answer_tokenize(model: TokenModel, request: EngineRequest) -> EngineResponse:
    """Answer `/tokenize`.

    Raises:
        RequestError: something of the request is wrong.
    """
    fields = parse(request.body, TokenizeRequest)
    tokens = await tokens_of(fields, model)
    answer: dict[str, Any] = {"count": len(tokens), "max_model_len": model.max_model_len, "tokens": tokens}
    answer["token_strs"] = (
        [model.tokenizer.token(token_id)[0] for token_id in tokens] if fields.return_token_strs else None
    )
    return EngineResponse(200, msgspec.json.encode(answer))


async def tokens_of(fields: TokenizeRequest, model: TokenModel) -> list[int]:
    """The tokens of a prompt, or of a chat's messages.

    Raises:
        RequestError: there is neither, or something is wrong with it.
    """
    if fields.messages is not None:
        refuse_template(fields.chat_template)
        text = rendered(
            model.tokenizer,
            template_messages(fields.messages),
            tools=fields.tools,
            add_generation_prompt=fields.add_generation_prompt and not fields.continue_final_message,
            continue_final_message=fields.continue_final_message,
            template_arguments=fields.chat_template_kwargs,
        )
        # The template has written them already.
        special = bool(fields.add_special_tokens)
        return await encoded(model.tokenizer, text, add_special_tokens=special)
    if fields.prompt is None:
        raise RequestError("prompt: give a prompt, or messages", "prompt")
    return await encoded(model.tokenizer, fields.prompt, add_special_tokens=fields.add_special_tokens is not False)


async def answer_detokenize(model: TokenModel, request: EngineRequest) -> EngineResponse:
    """Answer `/detokenize`.

    Raises:
        RequestError: something of the request is wrong.
    """
    fields = parse(request.body, DetokenizeRequest)
    size = model.tokenizer.vocabulary_size
    for token_id in fields.tokens:
        if not 0 <= token_id < size:
            raise RequestError(f"tokens: {token_id} is no token of this model, which has {size}", "tokens")
    text = model.tokenizer.decode(fields.tokens, skip_special_tokens=False)
    return EngineResponse(200, msgspec.json.encode({"prompt": text}))
