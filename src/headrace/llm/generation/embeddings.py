"""Vectors of texts: `/v1/embeddings`."""

from __future__ import annotations

import array
import base64
import math
import sys
import time
from typing import Any

import msgspec

from headrace.llm.engines.protocol import EngineRequest, EngineResponse
from headrace.llm.generation.completions import prompts_of
from headrace.llm.generation.prompt_tokens import encoded, truncated
from headrace.llm.generation.request_error import RequestError, context_too_long
from headrace.llm.generation.request_fields import EmbeddingRequest, parse
from headrace.llm.generation.token_engine import TokenEngine, TokenModel
from headrace.llm.generation.usage import Usage


async def answer_embeddings(engine: TokenEngine, model: TokenModel, request: EngineRequest) -> EngineResponse:
    """Answer `/v1/embeddings`.

    Raises:
        RequestError: something of the request is wrong.
        GenerationFailedError: the engine gave up.
    """
    fields = parse(request.body, EmbeddingRequest)
    if fields.encoding_format not in ("float", "base64"):
        raise RequestError(
            f"encoding_format: must be 'float' or 'base64', not '{fields.encoding_format}'", "encoding_format"
        )
    prompts: list[list[int]] = []
    for prompt in prompts_of(fields.input, "input"):
        tokens = await encoded(model.tokenizer, prompt, add_special_tokens=True) if isinstance(prompt, str) else prompt
        if fields.truncate_prompt_tokens is not None:
            tokens = truncated(tokens, fields.truncate_prompt_tokens, model.max_model_len)
        if len(tokens) > model.max_model_len:
            raise context_too_long(model.max_model_len, len(tokens), 0, "input")
        if not tokens:
            raise RequestError("input: has no tokens", "input")
        if not all(0 <= token_id < model.tokenizer.vocabulary_size for token_id in tokens):
            size = model.tokenizer.vocabulary_size
            raise RequestError(f"input: holds ids that are no tokens of this model, which has {size}", "input")
        prompts.append(tokens)
    vectors = await engine.embed(prompts)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(_cut(vector, fields.dimensions), fields)}
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, prompts))
    answer = {
        "id": f"embd-{request.request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": fields.model or model.model_id,
        "data": data,
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    return EngineResponse(200, msgspec.json.encode(answer), usage=Usage(count))


def _cut(vector: list[float], dimensions: int | None) -> list[float]:
    """The first so many values, of length 1 again."""
    if dimensions is None:
        return vector
    if not 1 <= dimensions <= len(vector):
        raise RequestError(f"dimensions: must be from 1 to {len(vector)}, not {dimensions}", "dimensions")
    vector = vector[:dimensions]
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def _encoded(vector: list[float], fields: EmbeddingRequest) -> Any:
    if fields.encoding_format == "float":
        return vector
    values = array.array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode()
