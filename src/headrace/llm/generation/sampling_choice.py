"""From a request's fields to checked sampling parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from headrace.llm.generation.output_constraint import constraint_of
from headrace.llm.generation.request_error import RequestError
from headrace.llm.generation.request_fields import SamplingFields
from headrace.llm.generation.token_engine import OutputConstraint, SamplingParameters, TokenModel

MAX_LOGPROBS = 20
MAX_CHOICES = 128


def sampling_of(
    request: SamplingFields,
    model: TokenModel,
    *,
    max_tokens: int,
    logprobs: int | None,
    constraint: OutputConstraint | None = None,
) -> SamplingParameters:
    """The parameters of a request.

    Args:
        max_tokens: what is left for the answer.
        logprobs: as `SamplingParameters` has it.
        constraint: in place of that of the request's own fields, for tool calls.

    Raises:
        RequestError: a value is out of its range, or is not supported; names the field.
    """
    defaults: Mapping[str, float] = model.default_sampling or {}
    repetition_penalty = _within(
        request.repetition_penalty, "repetition_penalty", defaults.get("repetition_penalty", 1.0), 0.0, math.inf
    )
    if repetition_penalty == 0.0:
        raise RequestError("repetition_penalty: must be more than 0", "repetition_penalty")
    top_p = _within(request.top_p, "top_p", defaults.get("top_p", 1.0), 0.0, 1.0)
    if top_p == 0.0:
        raise RequestError("top_p: must be more than 0, and at most 1", "top_p")
    if request.min_tokens < 0:
        raise RequestError(f"min_tokens: must be 0 or more, not {request.min_tokens}", "min_tokens")
    if request.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens: must be at most the {max_tokens} tokens that the answer may have, not {request.min_tokens}",
            "min_tokens",
        )
    if request.use_beam_search:
        raise RequestError(f"use_beam_search: the engine '{model.engine}' has no beam search", "use_beam_search")
    if request.bad_words:
        raise RequestError(f"bad_words: the engine '{model.engine}' does not support this", "bad_words")
    return SamplingParameters(
        max_tokens=max_tokens,
        temperature=_within(request.temperature, "temperature", defaults.get("temperature", 1.0), 0.0, 2.0),
        top_p=top_p,
        top_k=_top_k(request.top_k, int(defaults.get("top_k", 0))),
        min_p=_within(request.min_p, "min_p", defaults.get("min_p", 0.0), 0.0, 1.0),
        repetition_penalty=repetition_penalty,
        presence_penalty=_within(request.presence_penalty, "presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=_within(request.frequency_penalty, "frequency_penalty", 0.0, -2.0, 2.0),
        seed=request.seed,
        stop_token_ids=_token_ids(request.stop_token_ids, "stop_token_ids", model),
        ignore_eos=request.ignore_eos,
        min_tokens=request.min_tokens,
        logprobs=logprobs,
        prompt_logprobs=checked_logprobs(request.prompt_logprobs, "prompt_logprobs"),
        logit_bias=_logit_bias(request.logit_bias, model),
        allowed_token_ids=_token_ids(request.allowed_token_ids, "allowed_token_ids", model)
        if request.allowed_token_ids
        else None,
        constraint=constraint or constraint_of(request, model),
    )


def for_choice(sampling: SamplingParameters, index: int) -> SamplingParameters:
    """The parameters of one of several choices: with a seed, each has its own."""
    if sampling.seed is None or index == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=sampling.seed + index)


def choices_of(request: SamplingFields) -> int:
    """`n`, checked."""
    n = 1 if request.n is None else request.n
    if not 1 <= n <= MAX_CHOICES:
        raise RequestError(f"n: must be from 1 to {MAX_CHOICES}, not {n}", "n")
    return n


def stops_of(request: SamplingFields) -> tuple[str, ...]:
    """`stop`, as strings."""
    stops = request.stop
    if stops is None:
        return ()
    stops = [stops] if isinstance(stops, str) else stops
    if "" in stops:
        raise RequestError("stop: a stop string cannot be empty", "stop")
    return tuple(stops)


def checked_logprobs(value: int | None, name: str) -> int | None:
    """How many of the likeliest tokens are asked for, checked."""
    if value is not None and not 0 <= value <= MAX_LOGPROBS:
        raise RequestError(f"{name}: must be from 0 to {MAX_LOGPROBS}, not {value}", name)
    return value


def _within(value: float | None, name: str, default: float, low: float, high: float) -> float:
    if value is None:
        return default
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise RequestError(f"{name}: must be {limits}, not {value:g}", name)
    return value


def _top_k(value: int | None, default: int) -> int:
    if value is None:
        return max(default, 0)
    if value < -1:
        raise RequestError(f"top_k: must be 1 or more (0 or -1: all tokens), not {value}", "top_k")
    return max(value, 0)


def _token_ids(ids: list[int] | None, name: str, model: TokenModel) -> frozenset[int]:
    size = model.tokenizer.vocabulary_size
    for token_id in ids or ():
        if not 0 <= token_id < size:
            raise RequestError(f"{name}: {token_id} is no token of this model, which has {size}", name)
    return frozenset(ids or ())


def _logit_bias(bias: dict[str, float] | None, model: TokenModel) -> dict[int, float] | None:
    if not bias:
        return None
    by_id: dict[int, float] = {}
    for key, value in bias.items():
        if not key.isdecimal() or int(key) >= model.tokenizer.vocabulary_size:
            raise RequestError(
                f"logit_bias: '{key}' is no token id of this model, which has {model.tokenizer.vocabulary_size}",
                "logit_bias",
            )
        by_id[int(key)] = min(100.0, max(-100.0, value))
    return by_id
