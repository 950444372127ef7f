"""The request that the current task or thread works on: its id, route, model, deadline and the calls it made.

A `RequestContext` is set by the replica before user code runs (a `contextvars` variable, so that tasks and worker
threads inherit it), read by handles, which pass it downstream, and by the public getters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class RequestContext:
    """What travels with a request from its first HTTP byte or handle call through every downstream call.

    Attributes:
        request_id: unique id, from the `x-request-id` header where the client sent one.
        app: name of the application whose replica works on it ("" in a driver).
        deployment: name of the deployment.
        route: the route prefix that the request came in by ("" for handle calls from a driver).
        multiplexed_model_id: the model asked for, "" if none.
        session_id: key of session affinity, "" if none.
        deadline: `time.monotonic()` at which nobody waits for the answer any more; None for no limit.
        began: `time.monotonic()` when its replica took it; 0 outside of replicas.
        method: of the deployment's class; "__call__" for HTTP.
        calls: downstream calls that are not answered yet; cancelled with the request.
        span: what traces it (`observe.spans.Span`); None where nothing does.
    """

    __slots__ = (
        "app",
        "began",
        "calls",
        "deadline",
        "deployment",
        "method",
        "multiplexed_model_id",
        "request_id",
        "route",
        "session_id",
        "span",
    )

    def __init__(
        self,
        request_id: str,
        app: str = "",
        deployment: str = "",
        route: str = "",
        multiplexed_model_id: str = "",
        session_id: str = "",
        deadline: float | None = None,
        began: float = 0.0,
        method: str = "__call__",
    ) -> None:
        self.request_id = request_id
        self.app = app
        self.deployment = deployment
        self.route = route
        self.multiplexed_model_id = multiplexed_model_id
        self.session_id = session_id
        self.deadline = deadline
        self.began = began
        self.method = method
        self.calls: set[Cancellable] | None = None
        self.span: Any = None

    def remaining_s(self) -> float | None:
        """Seconds until the deadline (may be negative), or None where there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    @property
    def expired(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def unless_expired(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, or CancelledError from it where the deadline has passed when its turn comes."""
        if self.deadline is None:
            return function

        def begin(*args: Any, **kwargs: Any) -> Any:
            if self.expired:
                raise asyncio.CancelledError
            return function(*args, **kwargs)

        return begin

    def cancel_calls(self) -> None:
        """Cancel every downstream call that has not been answered."""
        calls, self.calls = self.calls, None
        for call in calls or ():
            call.cancel()


request_context: ContextVar[RequestContext | None] = ContextVar("headrace_request", default=None)


def current() -> RequestContext | None:
    """The context of the request that this task or thread works on, or None outside of any."""
    return request_context.get()
