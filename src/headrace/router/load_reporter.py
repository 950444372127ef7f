"""Tells the controller how many requests this process has at the deployments that scale with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.config.spec import Load, ReportLoadRequest
from headrace.router.router import Router
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.router")

_TIMEOUT_S = 5.0


class LoadReporter:
    """Looks at each such router in its interval, and at once where requests wait for a deployment without replicas.

    Nothing is told of a deployment that has not been asked for anything since it was last told of.

    Args:
        caller: this process's name in reports.
        client: the connection to the controller, or None while there is none.
    """

    def __init__(self, caller: str, loop: asyncio.AbstractEventLoop, client: Callable[[], RpcClient | None]) -> None:
        self.caller = caller
        self._loop = loop
        self._client = client
        self._timers: dict[Router, tuple[float, asyncio.TimerHandle]] = {}
        self._told: dict[Router, Load] = {}
        self._urgent: set[Router] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, router: Router) -> None:
        """Take on the router's interval."""
        interval_s = router.report_interval_s
        known = self._timers.get(router)
        if (known[0] if known is not None else None) == interval_s:
            return
        if known is not None:
            known[1].cancel()
            del self._timers[router]
        if interval_s is None:
            self._told.pop(router, None)
            router.on_starving = None
            return
        router.on_starving = self.hurry
        if router.queued:
            self.hurry(router)
        self._wait(router, interval_s)

    def _wait(self, router: Router, interval_s: float) -> None:
        self._timers[router] = (interval_s, self._loop.call_later(interval_s, self._due, router, interval_s))

    def _due(self, router: Router, interval_s: float) -> None:
        self._wait(router, interval_s)
        self._send([router])

    def hurry(self, router: Router) -> None:
        """Tell of this one as soon as this turn of the loop is over."""
        told = self._told.get(router)
        if told is not None and told.queued:
            return  # it is known that requests wait
        if not self._urgent:
            self._loop.call_soon(self._send_urgent)
        self._urgent.add(router)

    def _send_urgent(self) -> None:
        urgent, self._urgent = self._urgent, set()
        self._send(list(urgent))

    def begin(self) -> None:
        """There is a connection to a controller that knows nothing yet."""
        self._told.clear()
        self._send(list(self._timers))

    def _send(self, routers: list[Router]) -> None:
        client = self._client()
        if client is None or client.closed:
            return
        loads, latencies = {}, {}
        for router in routers:
            load = router.load
            answered = router.latencies.take() if router.latencies is not None else None
            if load.ongoing or answered or self._told.get(router, Load()).ongoing:
                loads[f"{router.app}#{router.deployment}"] = load
            if answered:
                latencies[f"{router.app}#{router.deployment}"] = answered
            self._told[router] = load
        if loads:
            request = ReportLoadRequest(caller=self.caller, loads=loads, latencies=latencies)
            task = self._loop.create_task(self._report(client, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _report(self, client: RpcClient, request: ReportLoadRequest) -> None:
        loads = request.loads
        try:
            await client.call("report_load", request, timeout_s=_TIMEOUT_S)
        except (WireError, TimeoutError) as error:
            logger.debug("load was not reported: %s", error)
            self._told = {
                router: told for router, told in self._told.items() if f"{router.app}#{router.deployment}" not in loads
            }

    def close(self) -> None:
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
