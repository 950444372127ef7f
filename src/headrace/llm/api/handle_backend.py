"""A model behind a handle: both sides of the hop between the front of the API and a deployment that holds an engine.

The replica's side, `answer_items`, turns an answer into the items of a stream; the front's side, `HandleBackend`, turns
them into the answer again. An answer that is there at once is one item.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from headrace import DeploymentHandle, DeploymentResponseGenerator
from headrace.exceptions import BackPressureError, DeploymentUnavailableError, HeadraceError, RequestTimeoutError
from headrace.llm.api.backend import Affinity
from headrace.llm.api.errors import OVERLOADED_HEADER
from headrace.llm.engines.protocol import AnswerTimes, EngineRequest, EngineResponse, ModelInfo

AnswerItem = tuple[int, str, Mapping[str, str], bytes | None, float, float] | bytes | tuple[float, int]
"""The first item: status, media type, headers, the body where all of it is there, and of a stream the time when the
engine was asked and that of its first piece (0 where nobody has taken it down). Bytes follow, and at last the time of
the last piece and the number of tokens. Plain tuples, since they are pickled for every request."""

_TRIES = 3

_HEALTH_TIMEOUT_S = 1.0
_REFRESH_TIMEOUT_S = 0.5


async def answer_items(answer: EngineResponse) -> AsyncGenerator[AnswerItem, None]:
    """The items of an answer, for a deployment's `respond`. Closing this generator closes the answer's.

    Args:
        answer: of the engine.
    """
    body = answer.body
    if isinstance(body, bytes):
        yield answer.status, answer.media_type, answer.headers, body, 0.0, 0.0
        return
    times = answer.times
    try:
        # The head goes with the first piece, whose time it tells. Nobody has use for it before.
        first = await anext(body, b"")
        began = (0.0, 0.0) if times is None else (times.asked_at, times.first_at)
        yield answer.status, answer.media_type, answer.headers, None, *began
        if first:
            yield first
        async for piece in body:
            yield piece
        if times is not None:
            yield times.last_at, times.tokens
    finally:
        await body.aclose()


class HandleBackend:
    """A deployment whose `respond(request: EngineRequest)` streams the items of `answer_items`, and whose `info()`
    returns its `ModelInfo`.

    Args:
        handle: to the deployment.
        info: what it serves, where that is known beforehand; else it is asked with the first request.
        adapters: see `Backend.adapters`.
        starts_on_demand: the deployment scales from zero, so that it is healthy without any replica.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        info: ModelInfo | None = None,
        adapters: Sequence[str] | None = None,
        starts_on_demand: bool = False,
    ) -> None:
        self._handle = handle
        self._info = info
        self.adapters = adapters
        self._starts_on_demand = starts_on_demand

    @property
    def info(self) -> ModelInfo | None:
        return self._info

    async def ask_info(self) -> ModelInfo:
        """See `Backend`."""
        info: ModelInfo = await self._handle.options(method_name="info").remote()
        self._info = info
        return info

    async def refresh_info(self) -> None:
        """See `Backend`. Wakes nobody up, and does not wait for a busy model."""
        if self._handle.running_replicas_populated():
            ask = self._handle.options(method_name="info", timeout_s=_REFRESH_TIMEOUT_S)
            with contextlib.suppress(HeadraceError):
                self._info = await ask.remote()

    async def respond(self, request: EngineRequest, affinity: Affinity) -> EngineResponse:
        """See `Backend`."""
        handle = self._handle.options(
            stream=True,
            method_name="respond",
            multiplexed_model_id=affinity.adapter_id,
            session_id=affinity.session_id,
            routing_hint=affinity.hint,
        )
        tries = _TRIES
        while True:
            items: DeploymentResponseGenerator[Any] = handle.remote(request)
            try:
                status, media_type, headers, body, asked_at, first_at = await anext(items)
            except BaseException:
                items.cancel()
                raise
            tries -= 1
            if OVERLOADED_HEADER not in headers or not tries:
                break
            # It ran nothing, and where load is uneven, after a replica has joined, another one may have room.
        if body is not None:
            return EngineResponse(status, body, media_type, headers)
        times = AnswerTimes(asked_at, first_at) if asked_at else None
        return EngineResponse(status, _Rest(items, times), media_type, headers, times=times)

    async def check_health(self) -> None:
        """See `Backend`. A model whose replicas are all busy is healthy."""
        if not self._handle.running_replicas_populated():
            if self._starts_on_demand:
                return
            raise DeploymentUnavailableError("no replica is ready")
        check = self._handle.options(method_name="check_ready", timeout_s=_HEALTH_TIMEOUT_S)
        with contextlib.suppress(BackPressureError, RequestTimeoutError):
            await check.remote()


class _Rest(AsyncGenerator[bytes, None]):
    """The pieces that follow the head. No generator function: one that was never begun could not be closed.

    Args:
        items: what the deployment streams.
        times: filled in with what the last item tells.
    """

    def __init__(self, items: DeploymentResponseGenerator[Any], times: AnswerTimes | None) -> None:
        self._items = items
        self._times = times

    async def __anext__(self) -> bytes:
        item = await self._items.__anext__()
        if item.__class__ is tuple:
            if self._times is not None:
                self._times.last_at, self._times.tokens = item
            item = await self._items.__anext__()
        piece: bytes = item
        return piece

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> bytes:
        self._items.cancel()
        piece: bytes = await super().athrow(*error)
        return piece

    async def aclose(self) -> None:
        self._items.cancel()
