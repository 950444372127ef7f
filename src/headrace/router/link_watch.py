"""Looks, while requests are in flight, whether replicas still make progress, and whether one is far slower than others.

Nothing runs while nothing is in flight, and a request costs nothing here but the answer's time of arrival.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from headrace.router.outliers import ENOUGH_ANSWERS, LONGEST_PAUSE_S, far_slower, pause_s

if TYPE_CHECKING:
    from headrace.router.link import ReplicaLink
    from headrace.router.router import Router

logger = logging.getLogger("headrace.router")

LOOK_EVERY_S = 0.25
"""A replica that stops is asked at the second look without an answer and routed around at the third: within 0.75 s."""

_LATE_S = 0.1


class LinkWatch:
    """Watches one router's links.

    A replica that has answered nothing between two looks is asked for a sign of life (a `PING`, which its event loop
    answers). One that is silent at the next look too has *stalled*: its process is stopped, or user code blocks its
    event loop. It gets no requests while others answer, until it does.
    """

    def __init__(self, router: Router) -> None:
        self.running = False
        self._router = router
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A request is in flight: look from now on, until none is."""
        self.running = True
        loop = self._router.loop
        self._due = loop.time() + LOOK_EVERY_S
        self._timer = loop.call_later(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        self.running = False
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._router.loop.time()
        # This process was held up itself: what has arrived meanwhile may not be read yet.
        held_up = now - self._due > _LATE_S
        changed = False
        active = False
        for link in self._router.reachable:
            changed |= self._look_for_progress(link, held_up)
            active |= link.inflight > 0 or link.asked or link.gave_up
        if self._router.compares:
            changed |= self._compare(now)
        if changed:
            self._router.sort()
        if active:
            self.begin()
        else:
            self.running = False

    def _look_for_progress(self, link: ReplicaLink, held_up: bool) -> bool:
        """Returns whether it has stalled just now."""
        connection = link.connection
        if connection is None:
            return False
        stalled_now = False
        if not connection.silent:
            link.asked = link.gave_up = False
        elif not held_up and (link.inflight > 0 or link.gave_up):
            if not link.asked:
                link.asked = True
                connection.ping()
            elif not link.stalled:
                link.stalled = stalled_now = True
                logger.info("replica %s answers nothing; others get its requests until it does", link.replica_id)
        connection.silent = True
        return stalled_now

    def _compare(self, now: float) -> bool:
        """Spare those that are slower than the others by far. Returns whether that changed anything."""
        changed = False
        measured = []
        for link in self._router.reachable:
            if link.slow and now >= link.slow_until:
                link.slow, link.answers = False, 0
                changed = True
            elif link.answers >= ENOUGH_ANSWERS:
                measured.append(link)
        latencies = [math.exp(link.log_latency) for link in measured]
        for index in far_slower(latencies):
            link = measured[index]
            if link.slow:
                continue
            link.times_slow = link.times_slow + 1 if now < link.slow_until + LONGEST_PAUSE_S else 1
            link.slow, link.slow_until = True, now + pause_s(link.times_slow)
            changed = True
            logger.info(
                "replica %s takes %.0f ms, far more than its peers; spared for %g s",
                link.replica_id,
                1000 * latencies[index],
                pause_s(link.times_slow),
            )
        return changed
