"""Asks one replica how it is, and tells a replica that is busy from one that is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from headrace.config.spec import ReplicaVitals
from headrace.controller.replica_machine import FoundBusy, FoundStopped, HealthFailed, HealthOk, HealthTimedOut
from headrace.engine.process import Activity
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

BLOCKED_AFTER_S = 0.5
"""An event loop that has not turned for so long is blocked by user code."""

VITALS_TIMEOUT_S = 5.0

_WORKING = 0.05
"""Of one CPU: a process that takes more, though no thread of it answers, is at work under the interpreter's lock."""

Finding = HealthOk | HealthFailed | HealthTimedOut | FoundBusy | FoundStopped

Inspect = Callable[[], Awaitable[Activity | None]]
"""Asks the engine what the system tells of the process; None where there is no telling."""


async def read_vitals(address: str, secret: bytes, timeout_s: float = VITALS_TIMEOUT_S) -> ReplicaVitals | None:
    """What the replica's other thread says, or None if it says nothing either."""
    try:
        client = await RpcClient.connect(address, secret, timeout_s=timeout_s)
        try:
            vitals: ReplicaVitals = await client.call("vitals", type=ReplicaVitals, timeout_s=timeout_s)
            return vitals
        finally:
            client.close()
    except (OSError, WireError):
        return None


async def does_nothing(vitals: str, secret: bytes, inspect: Inspect, timeout_s: float = VITALS_TIMEOUT_S) -> bool:
    """Whether a process is one in name only: stopped by a signal, or silent without taking any CPU time."""
    before = await inspect()
    began = asyncio.get_running_loop().time()
    if not is_stopped(before) and await read_vitals(vitals, secret, timeout_s) is not None:
        return False
    after = await inspect()
    return is_stopped(after) or not _worked(before, after, asyncio.get_running_loop().time() - began)


def is_stopped(activity: Activity | None) -> bool:
    """Whether a signal has stopped a process (SIGSTOP), so that it cannot even end itself."""
    return activity is not None and activity.stopped


def _worked(before: Activity | None, after: Activity | None, seconds: float) -> bool:
    """Whether a process has taken CPU time worth the name between two looks at it, `seconds` apart."""
    return (
        before is not None and after is not None and seconds > 0 and (after.cpu_s - before.cpu_s) / seconds > _WORKING
    )


async def check_health(
    client: RpcClient | None,
    vitals: str,
    secret: bytes,
    timeout_s: float,
    inspect: Inspect,
    vitals_timeout_s: float = VITALS_TIMEOUT_S,
) -> Finding | None:
    """One health check.

    Args:
        client: the connection to the replica; None if there is none, which is worth a look at its vitals.
        vitals: address of the replica's other thread.
        timeout_s: how long `check_health` may take, seconds.
        inspect: asks what the system tells of its process.
        vitals_timeout_s: how long the other thread may take, seconds.

    Returns:
        What was found; None if the connection was lost meanwhile, which says nothing by itself.
    """
    try:
        if client is None:
            raise TimeoutError
        await client.call("check_health", timeout_s=timeout_s)
        return HealthOk()
    except TimeoutError:
        return await _after_timeout(vitals, secret, timeout_s, inspect, vitals_timeout_s)
    except RpcError as error:
        return HealthFailed(error.message)
    except ConnectionLost:
        return None


async def _after_timeout(
    vitals: str, secret: bytes, timeout_s: float, inspect: Inspect, vitals_timeout_s: float
) -> Finding:
    """Why `check_health` did not answer."""
    before = await inspect()
    if is_stopped(before):
        return FoundStopped(timeout_s)
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await read_vitals(vitals, secret, vitals_timeout_s)
    if found is not None:
        if found.loop_blocked_s >= min(BLOCKED_AFTER_S, timeout_s):
            return FoundBusy(found.loop_blocked_s)
        return HealthTimedOut(timeout_s)
    after = await inspect()
    if is_stopped(after):
        return FoundStopped(timeout_s)
    took_s = loop.time() - began
    if _worked(before, after, took_s):
        return FoundBusy(timeout_s + took_s)
    return HealthTimedOut(timeout_s)
