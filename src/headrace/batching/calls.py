"""One caller's place in a batch: what it asks for, and where its answer or its stream of answers arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from headrace.batching.forming import Waiting
from headrace.router.context import RequestContext

if TYPE_CHECKING:
    from headrace.batching.batcher import RunningBatch


class Call(Waiting):
    """A request with its future.

    Attributes:
        instance: what the batched method is bound to, None for a function.
        request: the request context that it came in with, None outside of any.
        context: the caller's context variables, of which the batch takes on those of its first request.
        batch: the batch that it is in, once that has started.
        future: where the answer arrives; for a stream, where word arrives that there is something to read.
    """

    __slots__ = ("batch", "context", "future", "instance", "request")

    def __init__(
        self,
        key: Hashable,
        item: Any,
        arrived: float,
        instance: object | None,
        request: RequestContext | None,
        context: Context,
        future: asyncio.Future[Any],
    ) -> None:
        # Not through super(): this runs for every request.
        self.key = key
        self.item = item
        self.arrived = arrived
        self.left = False
        self.instance = instance
        self.request = request
        self.context = context
        self.future = future
        self.batch: RunningBatch | None = None

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def cancel(self) -> None:
        """The loop is closing: wake the caller up with a cancellation."""
        self.future.cancel()


class StreamCall(Call):
    """A request whose answer is a stream: each batch of the generator's adds one element, however slow the reader."""

    __slots__ = ("elements", "ended", "error")

    def __init__(
        self,
        key: Hashable,
        item: Any,
        arrived: float,
        instance: object | None,
        request: RequestContext | None,
        context: Context,
        future: asyncio.Future[Any],
    ) -> None:
        super().__init__(key, item, arrived, instance, request, context, future)
        self.elements: deque[Any] = deque()
        self.error: BaseException | None = None
        self.ended = False

    def push(self, element: Any) -> None:
        self.elements.append(element)
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.error = error
            self.end()

    def cancel(self) -> None:
        self.ended = True
        self.future.cancel()

    async def readable(self) -> None:
        """Return when there is an element, an error or the end."""
        await self.future
        self.future = self.future.get_loop().create_future()

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def shared_request(calls: Sequence[Call]) -> RequestContext | None:
    """The request context of a batch: its first request's id, the model that all ask for, the latest deadline.

    It is an object of its own, so that cancelling one request does not cancel what the batch asks of others.
    """
    first = calls[0].request
    if first is None:
        return None
    requests = [call.request for call in calls]
    deadlines = [request.deadline if request is not None else None for request in requests]
    known = [deadline for deadline in deadlines if deadline is not None]
    sessions = {request.session_id if request is not None else "" for request in requests}
    return RequestContext(
        request_id=first.request_id,
        app=first.app,
        deployment=first.deployment,
        route=first.route,
        multiplexed_model_id=first.multiplexed_model_id,
        session_id=first.session_id if len(sessions) == 1 else "",
        deadline=max(known) if len(known) == len(deadlines) else None,
    )
