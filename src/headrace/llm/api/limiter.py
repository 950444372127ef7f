"""Who counts what API keys use: this process, or, for all ingress replicas together, one replica of a deployment."""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

from headrace import DeploymentHandle
from headrace.exceptions import HeadraceError
from headrace.llm.api.api_keys import ApiKey
from headrace.llm.api.rate_limits import RateLimits, Verdict

logger = logging.getLogger("headrace.llm")

_PATIENCE_S = 2.0


class Limiter(Protocol):
    """Counts requests and tokens of API keys."""

    async def reserve(self, key: ApiKey, tokens: int) -> Verdict:
        """See `RateLimits.reserve`."""

    def settle(self, key: ApiKey, reserved: int, used: int) -> None:
        """See `RateLimits.settle`. Returns at once."""


class LocalLimiter:
    """Counts in this process: exact where there is one ingress replica.

    Args:
        keys: with their limits.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._limits = RateLimits(keys, time.monotonic())

    async def reserve(self, key: ApiKey, tokens: int) -> Verdict:
        """See `Limiter`."""
        return self._limits.reserve(key.name, tokens, time.monotonic())

    def settle(self, key: ApiKey, reserved: int, used: int) -> None:
        """See `Limiter`."""
        self._limits.settle(key.name, reserved, used, time.monotonic())


class RateLimiter:
    """Counts for all ingress replicas, as a deployment with one replica: `serve.deployment(RateLimiter)`.

    A replica that starts again begins with full buckets.

    Args:
        keys: with their limits.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._limits = RateLimits(keys, time.monotonic())

    async def reserve(self, name: str, tokens: int) -> Verdict:
        """See `RateLimits.reserve`."""
        return self._limits.reserve(name, tokens, time.monotonic())

    async def settle(self, name: str, reserved: int, used: int) -> None:
        """See `RateLimits.settle`."""
        self._limits.settle(name, reserved, used, time.monotonic())


class HandleLimiter:
    """Asks a `RateLimiter`. While that does not answer, requests go on uncounted: limits must not become an outage.

    Args:
        handle: to the `RateLimiter`.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._reserve = handle.options(method_name="reserve", timeout_s=_PATIENCE_S)
        self._settle = handle.options(method_name="settle")

    async def reserve(self, key: ApiKey, tokens: int) -> Verdict:
        """See `Limiter`."""
        try:
            verdict: Verdict = await self._reserve.remote(key.name, tokens)
        except (HeadraceError, TimeoutError) as error:
            logger.warning("the rate limiter does not answer, the request of %r goes on uncounted: %s", key.name, error)
            return Verdict(0.0, "", None, None, 0)
        return verdict

    def settle(self, key: ApiKey, reserved: int, used: int) -> None:
        """See `Limiter`."""
        # Outside of the request's context, with which calls are cancelled: a client that hangs up has used tokens too.
        contextvars.Context().run(self._settle.remote, key.name, reserved, used)
