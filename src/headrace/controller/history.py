"""What became of earlier attempts at a deployment's wanted version, and how long to wait before the next."""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

from headrace.controller.replica_machine import Cause

FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 30.0

STABLE_AFTER_S = 10.0
"""A replica that ran for so long and then ended was not in a crash loop: its replacement starts at once."""


class History(msgspec.Struct, frozen=True):
    """Starts empty for each wanted version.

    Attributes:
        start_failures: replicas that failed before they ran. Until the version has settled, those that failed within
            STABLE_AFTER_S of running count too, and only settling sets the count back.
        crashes: replicas that failed within STABLE_AFTER_S of running, since one last lived longer.
        last_failure_at: when the last replica failed, on the controller's clock, seconds.
        last_failure: its reason.
        settled: the version has once run in full number with no older one left.
        no_room: resources have refused a replica beyond the wanted number.
        never: resources say that a replica of the version can never be placed; why.
        reconfigure_failed: the config that running replicas refused (they are not asked again) and why.
    """

    start_failures: int = 0
    crashes: int = 0
    last_failure_at: float = 0.0
    last_failure: str = ""
    settled: bool = False
    no_room: bool = False
    never: str | None = None
    reconfigure_failed: tuple[str, str] | None = None


def after_failure(history: History, cause: Cause, ran_s: float | None, reason: str, now: float) -> History:
    """`ran_s`: for how long the replica had been running when it failed, seconds; None if it never ran."""
    history = replace(history, last_failure=reason, last_failure_at=now)
    if ran_s is None or cause in (Cause.START, Cause.CONSTRUCTOR):
        return replace(history, start_failures=history.start_failures + 1)
    if ran_s >= STABLE_AFTER_S:
        return replace(history, crashes=0)
    failures = history.start_failures + (0 if history.settled else 1)
    return replace(history, crashes=history.crashes + 1, start_failures=failures)


def after_running(history: History) -> History:
    """A replica of the wanted version came up."""
    return replace(history, start_failures=0) if history.settled else history


def after_settling(history: History) -> History:
    """The wanted version runs in full number and no older one is left."""
    return replace(history, settled=True, start_failures=0, no_room=False, never=None)


def backoff_s(history: History, num_replicas: int) -> float:
    """How long after the last failure the next replica may start, seconds.

    Failures are counted in rounds of `num_replicas`, so that replicas that die of one cause wait once. The first to
    die while running is replaced at once.
    """
    per_round = max(1, num_replicas)
    rounds = max(math.ceil(history.start_failures / per_round), math.ceil(history.crashes / per_round) - 1)
    return 0.0 if rounds <= 0 else min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(rounds - 1, 16))
