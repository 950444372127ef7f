"""Requests and replicas in virtual time: who waits, who is served, who is refused.

Requests are served in the order of their arrival, by whichever replica has room, as a router's queue does. What is
exact for every single request is computed for many at once where nobody waits, so that a day at hundreds of requests
per second takes seconds.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """What happened in a stretch of time.

    Attributes:
        accepted: how many requests arrived and were not refused.
        refused: how many found the queue full.
        finished_s: when requests were answered, in no order.
        latencies_s: of the same requests, from arrival to answer.
        in_system: how many requests were there on average, waiting or worked on. `queued`: of these, those that waited
            at callers.
    """

    accepted: int
    refused: int
    finished_s: Floats
    latencies_s: Floats
    in_system: float
    queued: float


class ReplicaPool:
    """
    Args:
        max_ongoing_requests: a replica never holds more.
        concurrency: how many of them a replica works on at a time without slowing down; the others wait in it.
        max_queued_requests: how many may wait at all callers together before the next is refused; None for no limit.

    Attributes:
        replicas: how many run.
        worked_s: the service times of all requests that have started, added up.
    """

    def __init__(self, max_ongoing_requests: int, concurrency: int, max_queued_requests: int | None = None) -> None:
        self.replicas = 0
        self.worked_s = 0.0
        self._max_ongoing = max_ongoing_requests
        self._concurrency = min(concurrency, max_ongoing_requests)
        self._max_queued = max_queued_requests
        self._now = 0.0
        self._free_at: list[float] = []  # a heap: when each place at a replica is free again
        self._waiting = np.empty((2, 0))  # arrival and service time of each
        self._leaving = np.empty((2, 0))  # when each that is being served will be answered, and its latency then

    @property
    def waiting(self) -> int:
        """Requests that nobody works on yet."""
        return int(self._waiting.shape[1])

    @property
    def in_system(self) -> int:
        """Requests that were accepted and not answered yet."""
        return self.waiting + int(self._leaving.shape[1])

    @property
    def queued(self) -> int:
        """Requests that wait at callers, since no replica may take them."""
        return max(0, self.waiting - self._room_in_replicas)

    @property
    def oldest_wait_s(self) -> float:
        """For how long the first in the queue has waited, seconds; 0 where nobody waits."""
        return self._now - float(self._waiting[0, 0]) if self.waiting else 0.0

    def resize(self, replicas: int) -> None:
        """From now on, so many replicas run. Those that go finish what they work on and take nothing new."""
        wanted = replicas * self._concurrency
        if wanted > len(self._free_at):
            self._free_at += [self._now] * (wanted - len(self._free_at))
        elif wanted < len(self._free_at):
            # A replica that goes is about as busy as the others.
            by_time = sorted(self._free_at)
            self._free_at = [by_time[int(place)] for place in (np.arange(wanted) + 0.5) * len(by_time) / max(wanted, 1)]
        heapq.heapify(self._free_at)
        self.replicas = replicas

    def advance(self, end_s: float, arrivals_s: Floats, services_s: Floats) -> Span:
        """Let time pass until `end_s`, in which these requests arrive."""
        length_s = end_s - self._now
        in_system_s, waiting_s = self.in_system * length_s, self.waiting * length_s
        free = self._unhindered(arrivals_s, services_s)
        finished = [self._leaving, np.stack((arrivals_s[:free] + services_s[:free], services_s[:free]))]
        in_system_s += float((end_s - arrivals_s[:free]).sum())
        self.worked_s += float(services_s[:free].sum())
        later = np.stack((arrivals_s[free:], services_s[free:]))
        refused = 0
        if later.shape[1] or self.waiting:
            known = self.waiting
            if self._max_queued is None:
                queue = np.concatenate((self._waiting, later), axis=1)
                starts = self._serve(queue, end_s)
            else:
                queue, starts = self._serve_or_refuse(later, end_s)
                refused = known + later.shape[1] - queue.shape[1]
            started = starts.size
            ends = starts + queue[1, :started]
            finished.append(np.stack((ends, ends - queue[0, :started])))
            joined_s = float((end_s - queue[0, known:]).sum())
            in_system_s += joined_s
            waiting_s += joined_s - float((end_s - starts).sum())
            self.worked_s += float(queue[1, :started].sum())
            self._waiting = queue[:, started:]
        answers = np.concatenate(finished, axis=1)
        done = answers[0] <= end_s
        self._leaving, answers = answers[:, ~done], answers[:, done]
        in_system_s -= float((end_s - answers[0]).sum())
        self._now = end_s
        return Span(
            accepted=arrivals_s.size - refused,
            refused=refused,
            finished_s=answers[0],
            latencies_s=answers[1],
            in_system=in_system_s / length_s if length_s else self.in_system,
            queued=max(0.0, waiting_s / length_s - self._room_in_replicas) if length_s else self.queued,
        )

    @property
    def _room_in_replicas(self) -> int:
        """How many may wait inside replicas."""
        return self.replicas * (self._max_ongoing - self._concurrency)

    def _unhindered(self, arrivals_s: Floats, services_s: Floats) -> int:
        """How many of these requests, from the first on, find a free place at once. Books the places."""
        places = len(self._free_at)
        if self.waiting or not places or not arrivals_s.size:
            return 0
        ends = arrivals_s + services_s
        booked = np.sort(np.array(self._free_at))
        # Whatever ended before an arrival also arrived before it, so counting ends and arrivals is enough.
        taken = np.arange(arrivals_s.size) - np.searchsorted(np.sort(ends), arrivals_s, side="right")
        taken += places - np.searchsorted(booked, arrivals_s, side="right")
        hindered = np.flatnonzero(taken >= places)
        count = int(hindered[0]) if hindered.size else arrivals_s.size
        # Those of the places that are still taken are the ones that are free last.
        booked = np.sort(np.concatenate((booked, ends[:count])))
        self._free_at = booked[-places:].tolist()  # sorted, hence a heap
        return count

    def _serve(self, queue: Floats, end_s: float) -> Floats:
        """When each of the first requests starts, as far as that is before `end_s`."""
        places, starts = self._free_at, []
        if places:
            for arrival, service in zip(*queue.tolist(), strict=True):
                free_at = places[0]
                start = arrival if arrival > free_at else free_at
                if start >= end_s:
                    break
                heapq.heapreplace(places, start + service)
                starts.append(start)
        return np.array(starts)

    def _serve_or_refuse(self, later: Floats, end_s: float) -> tuple[Floats, Floats]:
        """The same with a queue of limited length. Returns the requests that were accepted, and the starts."""
        assert self._max_queued is not None
        room = self._max_queued + self._room_in_replicas
        places = self._free_at
        accepted: list[tuple[float, float]] = list(zip(*self._waiting.tolist(), strict=True))
        starts: list[float] = []
        first_waiting = 0  # of `accepted`, at the time of the arrival that is looked at

        def serve() -> None:
            while places and len(starts) < len(accepted):
                arrival, service = accepted[len(starts)]
                start = max(arrival, places[0])
                if start >= end_s:
                    return
                heapq.heapreplace(places, start + service)
                starts.append(start)

        serve()
        for arrival, service in zip(*later.tolist(), strict=True):
            while first_waiting < len(starts) and starts[first_waiting] <= arrival:
                first_waiting += 1
            idle = places and places[0] <= arrival and first_waiting == len(accepted)
            if idle or len(accepted) - first_waiting < room:
                accepted.append((arrival, service))
                serve()
        queue = np.array(accepted).T if accepted else np.empty((2, 0))
        return queue, np.array(starts)


def percentile(values: Floats, share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; NaN of none."""
    if not values.size:
        return math.nan
    place = max(0, math.ceil(share * values.size) - 1)
    return float(np.partition(values, place)[place])
