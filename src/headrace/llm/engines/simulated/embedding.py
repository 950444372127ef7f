"""Embeddings that follow from the text, and mean nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import struct
from collections.abc import Sequence

import msgspec

from headrace.llm.api.errors import ApiError
from headrace.llm.engines.simulated.text import count_tokens


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 in a direction that follows from the text."""
    source = random.Random(hashlib.blake2b(text.encode(), digest_size=8).digest())
    vector = [source.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def embeddings_body(texts: Sequence[str], dimensions: int, encoding: str, model: str) -> bytes:
    """The body of an answer of `/v1/embeddings`.

    Raises:
        ApiError: 400: a parameter is wrong.
    """
    if encoding not in ("float", "base64"):
        message = f"encoding_format: must be 'float' or 'base64', not {encoding!r}"
        raise ApiError(400, message, code="invalid_value", param="encoding_format")
    if not 1 <= dimensions <= 65536:
        raise ApiError(400, "dimensions: must be from 1 to 65536", code="invalid_value", param="dimensions")
    data = []
    for index, text in enumerate(texts):
        vector = embedding(text, dimensions)
        value: object = vector
        if encoding == "base64":
            value = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(map(count_tokens, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})
