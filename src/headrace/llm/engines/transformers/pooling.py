"""Vectors of texts, with models made for that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

# A pass takes memory for all of its prompts, each as long as the longest.
_PROMPTS_IN_A_PASS = 16


def embed(model: Any, tokenizer: Any, source: str, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    """One vector of length 1 for each prompt.

    Args:
        source: where the model came from: a folder may say how tokens are pooled.
        prompts: token ids.
    """
    vectors: list[list[float]] = [[] for _ in prompts]
    # Those of like lengths together: less of a pass is padding.
    by_length = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(by_length), _PROMPTS_IN_A_PASS):
        places = by_length[start : start + _PROMPTS_IN_A_PASS]
        found = _one_pass(model, tokenizer, source, [prompts[place] for place in places])
        for place, vector in zip(places, found, strict=True):
            vectors[place] = vector
    return vectors


def _one_pass(model: Any, tokenizer: Any, source: str, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    longest = max(map(len, prompts))
    padding = tokenizer.pad_token_id or 0
    tokens = torch.tensor([[*prompt, *[padding] * (longest - len(prompt))] for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
    pooled = _pooled(hidden, mask, pooling_of(source))
    vectors: list[list[float]] = torch.nn.functional.normalize(pooled, dim=-1).tolist()
    return vectors


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.sum(dim=1) - 1]
    weights = mask[:, :, None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


@cache
def pooling_of(source: str) -> str:
    """ "mean", "cls" or "last": as sentence-transformers writes it beside a model; "mean" where nothing says."""
    path = Path(source) / "1_Pooling" / "config.json"
    if path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("pooling_mode_cls_token"):
            return "cls"
        if settings.get("pooling_mode_lasttoken"):
            return "last"
    return "mean"
