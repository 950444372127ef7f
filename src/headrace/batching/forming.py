"""When a batch closes and which requests are in it: pure, with the time handed in.

Requests that may share a batch wait in one lane, in order of arrival. A lane's next batch is due at once when it is
full, and otherwise `batch_wait_timeout_s` after its oldest request arrived, whatever ran in between.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from headrace.exceptions import BatchError


class Limits:
    """What the user may tune. Read anew for every batch, so that changes take effect at once."""

    __slots__ = ("batch_wait_timeout_s", "max_batch_size", "max_concurrent_batches")

    def __init__(
        self, max_batch_size: int = 10, batch_wait_timeout_s: float = 0.01, max_concurrent_batches: int = 1
    ) -> None:
        self.max_batch_size = max_batch_size
        self.batch_wait_timeout_s = batch_wait_timeout_s
        self.max_concurrent_batches = max_concurrent_batches

    def copy(self) -> Limits:
        return Limits(self.max_batch_size, self.batch_wait_timeout_s, self.max_concurrent_batches)


class Waiting:
    """A request that waits for its batch. Only requests with equal keys share one. `arrived`: seconds."""

    __slots__ = ("arrived", "item", "key", "left")

    def __init__(self, key: Hashable, item: Any, arrived: float) -> None:
        self.key = key
        self.item = item
        self.arrived = arrived
        self.left = False


W = TypeVar("W", bound=Waiting)
SizeOf = Callable[[list[Any]], float]
Reject = Callable[[W, Exception], object]
"""Told of a request that can be in no batch, and why. The request is gone from its lane then."""


class Lane(Protocol[W]):
    def __len__(self) -> int: ...
    def is_full(self) -> bool: ...
    def oldest(self) -> float: ...
    def put(self, request: W) -> None: ...
    def remove(self, request: W) -> None: ...
    def take(self) -> list[W]: ...


class CountedLane(Generic[W]):
    """A lane whose batches are measured by the number of their requests.

    Removal only marks a request: the deque stays as it is until the mark reaches its head, so that a thousand
    cancelled requests cost a thousand steps and not a million. The head itself is never marked.
    """

    __slots__ = ("_here", "_limits", "_waiting")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[W] = deque()
        self._here = 0

    def __len__(self) -> int:
        return self._here

    def is_full(self) -> bool:
        return self._here >= self._limits.max_batch_size

    def oldest(self) -> float:
        return self._waiting[0].arrived

    def put(self, request: W) -> None:
        self._waiting.append(request)
        self._here += 1

    def remove(self, request: W) -> None:
        request.left = True
        self._here -= 1
        self._drop_marked_heads()

    def take(self) -> list[W]:
        batch: list[W] = []
        size = min(self._here, self._limits.max_batch_size)
        while len(batch) < size:
            request = self._waiting.popleft()
            if not request.left:
                batch.append(request)
        self._here -= size
        self._drop_marked_heads()
        return batch

    def _drop_marked_heads(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0].left:
            waiting.popleft()


class SizedLane(Generic[W]):
    """A lane whose batches are measured by a function of the user's: tokens, pixels, nodes.

    The function may count anything (padded length, say), so it is only ever asked about whole candidate batches.
    The first `_fitting` requests fit together; once the next one does not, the batch is full.
    """

    __slots__ = ("_fitting", "_full", "_limits", "_measured_for", "_reject", "_size_of", "_waiting")

    def __init__(self, limits: Limits, size_of: SizeOf, reject: Reject[W]) -> None:
        self._limits = limits
        self._size_of = size_of
        self._reject = reject
        self._waiting: list[W] = []
        self._fitting = 0
        self._full = False
        self._measured_for = limits.max_batch_size

    def __len__(self) -> int:
        return len(self._waiting)

    def is_full(self) -> bool:
        self._measure()
        return self._full

    def oldest(self) -> float:
        return self._waiting[0].arrived

    def put(self, request: W) -> None:
        self._waiting.append(request)
        self._measure()

    def remove(self, request: W) -> None:
        request.left = True
        position = self._waiting.index(request)
        del self._waiting[position]
        if position <= self._fitting:
            self._measure_anew()

    def take(self) -> list[W]:
        self._measure()
        batch = self._waiting[: self._fitting]
        del self._waiting[: self._fitting]
        self._measure_anew()
        return batch

    def _measure_anew(self) -> None:
        self._fitting = 0
        self._full = False
        self._measure()

    def _measure(self) -> None:
        limit = self._limits.max_batch_size
        if limit != self._measured_for:
            self._measured_for, self._fitting, self._full = limit, 0, False
        while not self._full and self._fitting < len(self._waiting):
            newest = self._waiting[self._fitting]
            try:
                size = self._size_of([request.item for request in self._waiting[: self._fitting + 1]])
                alone = size if self._fitting == 0 or size <= limit else self._size_of([newest.item])
                if alone > limit:
                    raise BatchError(
                        f"the request alone has size {alone} by batch_size_fn, more than max_batch_size={limit}: "
                        "send less at once, or raise max_batch_size"
                    )
            except Exception as error:
                del self._waiting[self._fitting]
                newest.left = True
                self._reject(newest, error)
                continue
            if size <= limit:
                self._fitting += 1
            self._full = size >= limit


class BatchFormer(Generic[W]):
    """All lanes of one batched function.

    Args:
        limits: the sizes and times; may change at any time.
        size_of: measures a list of items; None counts them.
        reject: told of each request that is larger than a whole batch, or that `size_of` fails on.
    """

    __slots__ = ("_lanes", "_limits", "_reject", "_size_of")

    def __init__(self, limits: Limits, size_of: SizeOf | None, reject: Reject[W]) -> None:
        self._limits = limits
        self._size_of = size_of
        self._reject = reject
        self._lanes: dict[Hashable, Lane[W]] = {}

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def put(self, request: W) -> bool:
        """Line the request up. True if its lane has a full batch now."""
        lane = self._lanes.get(request.key)
        if lane is None:
            lane = self._lanes[request.key] = self._new_lane()
        lane.put(request)
        return lane.is_full()

    def remove(self, request: W) -> None:
        """Take out a request whose caller went away. Nothing happens if it is not waiting any more."""
        lane = self._lanes.get(request.key)
        if lane is None or request.left:
            return
        lane.remove(request)
        self._forget_if_empty(request.key, lane)

    def next_due(self) -> float:
        """When the next batch is due, on the clock of `arrived`; -inf for a full one, +inf if none waits."""
        return min((self._due(lane) for lane in self._lanes.values()), default=math.inf)

    def take(self, now: float) -> list[W]:
        """The due batch whose first request waits longest, in order of arrival; empty if none is due at `now`."""
        chosen: Hashable = None
        lane: Lane[W] | None = None
        for key, candidate in self._lanes.items():
            if self._due(candidate) <= now and (lane is None or candidate.oldest() < lane.oldest()):
                chosen, lane = key, candidate
        if lane is None:
            return []
        batch = lane.take()
        for request in batch:
            request.left = True
        self._forget_if_empty(chosen, lane)
        return batch

    def _due(self, lane: Lane[W]) -> float:
        # is_full() may find that a request fits in no batch any more and empty the lane, so it is asked first.
        if lane.is_full():
            return -math.inf
        return lane.oldest() + self._limits.batch_wait_timeout_s if len(lane) else math.inf

    def _new_lane(self) -> Lane[W]:
        if self._size_of is None:
            return CountedLane(self._limits)
        return SizedLane(self._limits, self._size_of, self._reject)

    def _forget_if_empty(self, key: Hashable, lane: Lane[W]) -> None:
        # The last lane stays: with one kind of request, as nearly always, none is ever made anew.
        if not len(lane) and len(self._lanes) > 1:
            del self._lanes[key]
