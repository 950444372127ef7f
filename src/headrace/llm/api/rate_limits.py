"""Requests and tokens per minute of each API key, pure: the clock is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from headrace.llm.api.api_keys import ApiKey
from headrace.llm.api.errors import ApiError, retry_after
from headrace.llm.api.token_bucket import TokenBucket


class LimitState(NamedTuple):
    """One limit of a key, as OpenAI's headers tell it.

    Attributes:
        limit: per minute.
        remaining: what may be used now.
        reset_s: seconds until all of it may be used again.
    """

    limit: int
    remaining: int
    reset_s: float


class Verdict(NamedTuple):
    """Whether a request may go on.

    Attributes:
        wait_s: 0 where it may; else seconds until it may be tried again.
        exceeded: which limit it ran into; "" for none.
        requests, tokens: what is left afterwards; None where there is no such limit.
        reserved: tokens that were taken for it, to be settled when it is known how many it used.
    """

    wait_s: float
    exceeded: Literal["", "requests", "tokens"]
    requests: LimitState | None
    tokens: LimitState | None
    reserved: int

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers."""
        headers = {}
        for name, state in (("requests", self.requests), ("tokens", self.tokens)):
            if state is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(state.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(state.remaining)
                headers[f"x-ratelimit-reset-{name}"] = duration(state.reset_s)
        return headers

    def refusal(self) -> ApiError:
        """The error of a request that may not go on."""
        state = self.requests if self.exceeded == "requests" else self.tokens
        limit = state.limit if state is not None else 0
        return ApiError(
            429,
            f"this API key's limit of {limit} {self.exceeded} per minute is reached; "
            f"try again in {duration(self.wait_s)}",
            code="rate_limit_exceeded",
            headers={**self.headers, **retry_after(self.wait_s)},
        )


class RateLimits:
    """The buckets of all keys.

    Args:
        keys: those without limits are never refused.
        now: seconds, of the clock that later calls use.
    """

    def __init__(self, keys: Sequence[ApiKey], now: float) -> None:
        self._requests = {
            key.name: TokenBucket(key.requests_per_minute, now) for key in keys if key.requests_per_minute is not None
        }
        self._tokens = {
            key.name: TokenBucket(key.tokens_per_minute, now) for key in keys if key.tokens_per_minute is not None
        }

    def reserve(self, name: str, tokens: int, now: float) -> Verdict:
        """Let a request on and take what it is likely to use, or take nothing.

        Args:
            name: of the key.
            tokens: an estimate of what it will use.
        """
        requests, budget = self._requests.get(name), self._tokens.get(name)
        requests_wait_s = 0.0 if requests is None else requests.wait_s(1, now)
        tokens_wait_s = 0.0 if budget is None else budget.wait_s(tokens, now)
        wait_s = max(requests_wait_s, tokens_wait_s)
        exceeded: Literal["", "requests", "tokens"] = ""
        if wait_s:
            exceeded = "requests" if requests_wait_s >= tokens_wait_s else "tokens"
        else:
            if requests is not None:
                requests.take(1, now)
            if budget is not None:
                budget.take(tokens, now)
        reserved = 0 if wait_s or budget is None else tokens
        return Verdict(wait_s, exceeded, _state(requests, now), _state(budget, now), reserved)

    def settle(self, name: str, reserved: int, used: int, now: float) -> None:
        """A request has used so many tokens, of which `reserved` have been taken already."""
        budget = self._tokens.get(name)
        if budget is not None:
            budget.take(used - reserved, now)


def _state(bucket: TokenBucket | None, now: float) -> LimitState | None:
    if bucket is None:
        return None
    return LimitState(int(bucket.capacity), max(0, int(bucket.level(now))), bucket.full_in_s(now))


def duration(seconds: float) -> str:
    """A time as OpenAI writes it in headers: "20ms", "1.5s", "6m0s"."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
