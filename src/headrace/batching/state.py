"""What belongs to one batched function or to one instance's batched method, and how it is tuned while it runs."""

from __future__ import annotations

import asyncio
import math
import operator
import threading
from abc import abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any

from headrace.batching.batcher import Batcher
from headrace.batching.forming import Limits
from headrace.batching.target import Target
from headrace.exceptions import ConfigError, ConfigTypeError


@dataclass(frozen=True, slots=True)
class IterationStartTimes:
    """When the batches that run now began: seconds since the epoch."""

    start_times: list[float]

    @property
    def num_requests(self) -> int:
        return len(self.start_times)

    @property
    def min_start_time(self) -> float | None:
        return min(self.start_times, default=None)

    @property
    def mean_start_time(self) -> float | None:
        return sum(self.start_times) / len(self.start_times) if self.start_times else None

    @property
    def max_start_time(self) -> float | None:
        return max(self.start_times, default=None)


class BatchState:
    """The limits, and a batcher for each event loop on which there are calls."""

    __slots__ = ("_batcher", "_batchers", "_lock", "_target", "limits")

    def __init__(self, target: Target, limits: Limits) -> None:
        self.limits = limits
        self._target = target
        self._batcher: Batcher | None = None  # the one that was asked for last
        self._batchers: dict[asyncio.AbstractEventLoop, Batcher] = {}
        self._lock = threading.Lock()

    def batcher(self) -> Batcher:
        """The batcher of the running loop. Raises RuntimeError where none runs."""
        loop = asyncio.get_running_loop()
        batcher = self._batcher
        return batcher if batcher is not None and batcher.loop is loop else self._batcher_of(loop)

    def batchers(self) -> list[Batcher]:
        return list(self._batchers.values())

    def _batcher_of(self, loop: asyncio.AbstractEventLoop) -> Batcher:
        with self._lock:
            if loop not in self._batchers:
                for closed in [known for known in self._batchers if known.is_closed()]:
                    del self._batchers[closed]
                self._batchers[loop] = Batcher(self._target, self.limits, loop)
            self._batcher = self._batchers[loop]
            return self._batcher


class BatchControls:
    """The setters and getters of a batched function or method, from any thread.

    On `instance.method` they are about that instance; on a function or on `Class.method`, about all calls of it.
    """

    __slots__ = ()

    @abstractmethod
    def _states(self) -> list[BatchState]:
        """What the setters change; the getters read the first."""

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """Change the largest number of requests in a batch (or their largest size by `batch_size_fn`).

        Raises:
            ConfigError: not a whole number of at least 1.
        """
        checked = checked_max_batch_size(new_max_batch_size)
        for state in self._states():
            state.limits.max_batch_size = checked
        self._limits_changed()

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """Change for how many seconds a batch that is not full waits for more requests.

        Raises:
            ConfigError: not a finite number of at least 0.
        """
        checked = checked_batch_wait_timeout_s(new_batch_wait_timeout_s)
        for state in self._states():
            state.limits.batch_wait_timeout_s = checked
        self._limits_changed()

    def get_max_batch_size(self) -> int:
        return self._states()[0].limits.max_batch_size

    def get_batch_wait_timeout_s(self) -> float:
        return self._states()[0].limits.batch_wait_timeout_s

    def get_max_concurrent_batches(self) -> int:
        return self._states()[0].limits.max_concurrent_batches

    def get_curr_iteration_start_times(self) -> IterationStartTimes:
        """When the batches that run now began."""
        running = [batch for state in self._states() for batcher in state.batchers() for batch in list(batcher.running)]
        return IterationStartTimes([batch.started_at for batch in running])

    def is_running(self) -> bool:
        """Whether a batch runs now."""
        return any(batcher.running for state in self._states() for batcher in state.batchers())

    # Ray Serve's names for some of them.
    _get_max_batch_size = get_max_batch_size
    _get_batch_wait_timeout_s = get_batch_wait_timeout_s
    _get_curr_iteration_start_times = get_curr_iteration_start_times

    def _limits_changed(self) -> None:
        for state in self._states():
            for batcher in state.batchers():
                batcher.limits_changed()


def checked_max_batch_size(value: Any) -> int:
    """`value` as an int. Raises ConfigError if it is below 1, ConfigTypeError if it is no whole number."""
    rule = f"@serve.batch: max_batch_size must be a whole number of at least 1, not {value!r}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        raise ConfigTypeError(rule)
    try:
        size = operator.index(value)
    except TypeError:
        raise ConfigTypeError(rule) from None
    if size < 1:
        raise ConfigError(rule)
    return size


def checked_batch_wait_timeout_s(value: Any) -> float:
    """`value` as a float. Raises ConfigError if it is negative or not finite, ConfigTypeError if it is no number."""
    rule = f"@serve.batch: batch_wait_timeout_s must be a finite number of seconds, at least 0, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigTypeError(rule)
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(rule)
    return seconds


def checked_max_concurrent_batches(value: Any) -> int:
    """`value`, if it is a whole number of at least 1. Raises ConfigTypeError, as Ray Serve does for both mistakes."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigTypeError(
            f"@serve.batch: max_concurrent_batches must be a whole number of at least 1, not {value!r}"
        )
    return value
