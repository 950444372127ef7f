"""Machines that run nothing, which Ray's autoscaler may take away if nothing of ours stands in the way.

An actor makes Ray take its machine for busy, even one that asks for nothing. So a machine that has run no process for a
while loses its agent. Its root stays, and with it the proxies that listen there: they are no actors. What the agent is
for comes up again when there is something to do, and then there is an agent again.
"""

from __future__ import annotations

import asyncio
import contextlib

from headrace.engine.process import ProcessInfo

REST_AFTER_S = 30.0
"""How long nothing runs on a machine before its agent goes: a process that ends is often followed by another."""

_ANSWERS_WITHIN_S = 2.0


class IdleMachines:
    """Which machines have no agent because nothing runs there.

    Attributes:
        resting: those, with what their roots had started when the agent went.
    """

    def __init__(self, rest_after_s: float = REST_AFTER_S) -> None:
        self.resting: dict[str, list[ProcessInfo]] = {}
        self._rest_after_s = rest_after_s
        self._idle_since: dict[str, float] = {}

    def may_rest(self, name: str, *, busy: bool, now: float) -> bool:
        """Whether a machine has run nothing for long enough. Asked time and again, with the monotonic clock's time."""
        if busy:
            self._idle_since.pop(name, None)
            return False
        return now - self._idle_since.setdefault(name, now) >= self._rest_after_s

    def wake(self, name: str) -> bool:
        """A machine is to have an agent again. Whether it had none.

        One that has an agent goes on towards its rest: who only asks what runs there gives it nothing to do.
        """
        if self.resting.pop(name, None) is None:
            return False
        self._idle_since.pop(name, None)
        return True


async def listens(address: tuple[str, int] | None) -> bool:
    """Whether anybody accepts connections there: how one sees from afar that a root lives."""
    if address is None:
        return False
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            _, writer = await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
