"""Asks one replica how it is, and tells a replica that is busy from one that is broken."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from headrace.config.spec import ReplicaVitals
from headrace.controller.replica_machine import FoundBusy, FoundStopped, HealthFailed, HealthOk, HealthTimedOut
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

BLOCKED_AFTER_S = 0.5
"""An event loop that has not turned for so long is blocked by user code."""

VITALS_TIMEOUT_S = 5.0

_WORKING = 0.05
"""Of one CPU: a process that takes more, though no thread of it answers, is at work under the interpreter's lock."""

Finding = HealthOk | HealthFailed | HealthTimedOut | FoundBusy | FoundStopped


def is_stopped(pid: int | None) -> bool:
    """Whether a process of this machine was stopped by a signal (SIGSTOP), and so cannot even end itself."""
    return _stat(pid)[0] == "T"


def _stat(pid: int | None) -> tuple[str, float]:
    """State and CPU seconds of a process, from `/proc/<pid>/stat`; ("", 0.0) where there is no telling."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return "", 0.0


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


async def does_nothing(vitals: Path, secret: bytes, pid: int | None, timeout_s: float = VITALS_TIMEOUT_S) -> bool:
    """Whether a process is one in name only: stopped by a signal, or silent without taking any CPU time."""
    _, cpu_before = _stat(pid)
    began = asyncio.get_running_loop().time()
    if not is_stopped(pid) and await read_vitals(vitals, secret, timeout_s) is not None:
        return False
    state, cpu_after = _stat(pid)
    took_s = asyncio.get_running_loop().time() - began
    return state == "T" or took_s <= 0 or (cpu_after - cpu_before) / took_s <= _WORKING


async def check_health(
    client: RpcClient | None,
    vitals: Path,
    secret: bytes,
    timeout_s: float,
    pid: int | None = None,
    vitals_timeout_s: float = VITALS_TIMEOUT_S,
) -> Finding | None:
    """One health check.

    Args:
        client: the connection to the replica; None if there is none, which is worth a look at its vitals.
        vitals: socket of the replica's other thread.
        timeout_s: how long `check_health` may take, seconds.
        pid: its process on this machine, if it is known.
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
        return await _after_timeout(vitals, secret, timeout_s, pid, vitals_timeout_s)
    except RpcError as error:
        return HealthFailed(error.message)
    except ConnectionLost:
        return None


async def _after_timeout(
    vitals: Path, secret: bytes, timeout_s: float, pid: int | None, vitals_timeout_s: float
) -> Finding:
    """Why `check_health` did not answer."""
    if is_stopped(pid):
        return FoundStopped(timeout_s)
    loop = asyncio.get_running_loop()
    _, cpu_before = _stat(pid)
    began = loop.time()
    found = await read_vitals(vitals, secret, vitals_timeout_s)
    if found is not None:
        if found.loop_blocked_s >= min(BLOCKED_AFTER_S, timeout_s):
            return FoundBusy(found.loop_blocked_s)
        return HealthTimedOut(timeout_s)
    state, cpu_after = _stat(pid)
    if state == "T":
        return FoundStopped(timeout_s)
    took_s = loop.time() - began
    if state and took_s > 0 and (cpu_after - cpu_before) / took_s > _WORKING:
        return FoundBusy(timeout_s + took_s)
    return HealthTimedOut(timeout_s)
