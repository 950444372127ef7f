"""Asks one replica how it is, and tells a replica that is busy from one that is broken."""

from __future__ import annotations

from pathlib import Path

from headrace.config.spec import ReplicaVitals
from headrace.controller.replica_machine import FoundBusy, HealthFailed, HealthOk, HealthTimedOut
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

BLOCKED_AFTER_S = 0.5
"""An event loop that has not turned for so long is blocked by user code."""

VITALS_TIMEOUT_S = 5.0

Finding = HealthOk | HealthFailed | HealthTimedOut | FoundBusy


async def read_vitals(path: Path, secret: bytes, timeout_s: float = VITALS_TIMEOUT_S) -> ReplicaVitals | None:
    """What the replica's other thread says, or None if it says nothing either."""
    try:
        client = await RpcClient.connect(str(path), secret, timeout_s=timeout_s)
        try:
            vitals: ReplicaVitals = await client.call("vitals", type=ReplicaVitals, timeout_s=timeout_s)
            return vitals
        finally:
            client.close()
    except (OSError, WireError):
        return None


async def check_health(client: RpcClient | None, vitals: Path, secret: bytes, timeout_s: float) -> Finding | None:
    """One health check.

    Args:
        client: the connection to the replica; None if there is none, which is worth a look at its vitals.
        vitals: socket of the replica's other thread.
        timeout_s: how long `check_health` may take, seconds.

    Returns:
        What was found; None if the connection was lost meanwhile, which says nothing by itself.
    """
    try:
        if client is None:
            raise TimeoutError
        await client.call("check_health", timeout_s=timeout_s)
        return HealthOk()
    except TimeoutError:
        found = await read_vitals(vitals, secret)
        if found is not None and found.loop_blocked_s >= min(BLOCKED_AFTER_S, timeout_s):
            return FoundBusy(found.loop_blocked_s)
        return HealthTimedOut(timeout_s)
    except RpcError as error:
        return HealthFailed(error.message)
    except ConnectionLost:
        return None
