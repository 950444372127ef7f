"""Asks the user's `record_autoscaling_stats` for its numbers, and tells the controller."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from headrace.config.spec import ReportStatsRequest
from headrace.exceptions import HeadraceError
from headrace.replica.user_code import UserCode
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcClient

logger = logging.getLogger("headrace.replica")

METHOD = "record_autoscaling_stats"

ANSWER_WITHIN_S = 10.0
"""As Ray Serve has it."""

_REPORT_TIMEOUT_S = 5.0


class StatsReporter:
    """Nothing runs where the class has no such method, or the deployment does not scale itself.

    Args:
        controller: gives the connection to the controller, once there is one.
    """

    def __init__(self, replica_id: str, controller: Callable[[], Awaitable[RpcClient]]) -> None:
        self._replica_id = replica_id
        self._controller = controller
        self._interval_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._problem = ""

    def follow(self, code: UserCode, options: dict[str, Any]) -> None:
        """Ask at the interval that the deployment's options say; the first time at once."""
        scaling = options.get("autoscaling_config")
        interval_s = float(scaling["metrics_interval_s"]) if scaling and code.has_autoscaling_stats else None
        if interval_s == self._interval_s:
            return
        self.close()
        self._interval_s = interval_s
        if interval_s is not None:
            self._task = asyncio.get_running_loop().create_task(self._keep_asking(code, interval_s))

    def close(self) -> None:
        """Ask no more."""
        self._interval_s = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_asking(self, code: UserCode, interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            next_at = loop.time() + interval_s
            await self._ask(code)
            await asyncio.sleep(max(0.0, next_at - loop.time()))

    async def _ask(self, code: UserCode) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                answer = await code.autoscaling_stats()
            stats, problem = checked(answer)
        except TimeoutError:
            stats, problem = {}, f"did not answer within {ANSWER_WITHIN_S:g} s"
        except Exception as error:
            stats, problem = {}, f"raised {type(error).__name__}: {error}"
        if problem != self._problem:
            self._problem = problem
            if problem:
                logger.error("%s %s; what it says is not used for autoscaling", METHOD, problem)
        if not stats:
            return
        try:
            controller = await self._controller()
            request = ReportStatsRequest(replica_id=self._replica_id, stats=stats)
            await controller.call("report_stats", request, timeout_s=_REPORT_TIMEOUT_S)
        except (WireError, HeadraceError, TimeoutError) as error:
            logger.debug("autoscaling stats were not taken: %s", error)


def checked(answer: Any) -> tuple[dict[str, float], str]:
    """The finite numbers in what the method returned, and what is wrong with the rest; "" for nothing."""
    if not isinstance(answer, dict):
        return {}, f"returned {type(answer).__name__}, not a dict of names to numbers"
    stats: dict[str, float] = {}
    problem = ""
    for name, value in answer.items():
        try:
            number = math.nan if isinstance(value, bool | str | bytes) else float(value)  # NumPy's numbers too
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(name, str) and math.isfinite(number):
            stats[name] = number
        else:
            problem = problem or f"returned {value!r} for {name!r}, which is not a finite number"
    return stats, problem
