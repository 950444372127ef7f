"""What is to be done so that a deployment's replicas become what is wanted: values in, a plan out.

`plan` looks at the whole state each time and never at how it came about, so it may run at any moment, any number of
times, also after a restart of the controller.

Updates add before they remove: while replicas of an older version serve, replicas of the wanted version start beyond
the wanted number (the surge), and old ones go as soon as as many new ones run. Where resources do not allow a surge,
old ones go first, a wave at a time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

from headrace.controller.history import History, backoff_s
from headrace.controller.replica_machine import Phase

RETRIES_PER_REPLICA = 3
"""A deployment gives up after `min(max_constructor_retry_count, RETRIES_PER_REPLICA * num_replicas)` failed starts."""


class Desired(msgspec.Struct, frozen=True):
    """What is wanted. `config`: hash of the options that a running replica takes on without a restart.

    `fallback`: the version that last ran in full number, while it is not the wanted one. If the wanted version fails,
    what remains of the fallback is kept at strength.
    """

    version: str
    config: str
    num_replicas: int
    rolling_update_percentage: float = 0.2
    max_surge_percent: int = 0
    max_constructor_retry_count: int = 20
    fallback: str | None = None

    @property
    def wave(self) -> int:
        """How many replicas may be exchanged at a time."""
        return max(1, int(self.rolling_update_percentage * self.num_replicas))

    @property
    def surge(self) -> int:
        """How many replicas may exist beyond `num_replicas` during an update; always at least one."""
        if self.max_surge_percent > 0:
            return math.ceil(self.max_surge_percent * self.num_replicas / 100)
        return self.wave

    @property
    def failure_limit(self) -> int:
        return max(1, min(self.max_constructor_retry_count, RETRIES_PER_REPLICA * max(1, self.num_replicas)))


class Observed(msgspec.Struct, frozen=True):
    """One replica as it is. `started_at` orders replicas by age."""

    replica_id: str
    version: str
    config: str
    phase: Phase
    started_at: float
    reconfiguring: bool = False


class Verdict(enum.Enum):
    SETTLED = "settled"  # everything is as wanted
    CONVERGING = "converging"
    BACKING_OFF = "backing off"  # waits for `wake_at` before the next start
    HALTED = "halted"  # given up; only a new deploy changes that


class Start(msgspec.Struct, frozen=True):
    version: str
    count: int


class Stop(msgspec.Struct, frozen=True):
    replica_id: str
    reason: str


class Reconfigure(msgspec.Struct, frozen=True):
    replica_id: str


Action = Start | Stop | Reconfigure


class Plan(msgspec.Struct, frozen=True):
    verdict: Verdict
    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


class _Parts(msgspec.Struct):
    new: list[Observed] = []
    old: list[Observed] = []

    @property
    def ready(self) -> int:
        return sum(r.phase is Phase.RUNNING for r in self.new) + sum(r.phase is Phase.RUNNING for r in self.old)


_ACTIVE = (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING)


def plan(desired: Desired, replicas: Sequence[Observed], history: History, now: float) -> Plan:
    """What to do next. Replicas that are on their way out are of no interest here and may be left out."""
    parts = _Parts()
    for replica in replicas:
        if replica.phase in _ACTIVE:
            (parts.new if replica.version == desired.version else parts.old).append(replica)
    if is_halted(desired, history):
        return _hold(desired, parts, history, now)
    starts, wake_at = _starts(desired, desired.version, _room(desired, parts, history), history, now)
    actions: list[Action] = [*starts, *_stops(desired, parts, history), *_reconfigures(desired, parts, history)]
    if wake_at is not None:
        return Plan(Verdict.BACKING_OFF, tuple(actions), wake_at)
    done = not actions and not parts.old and len(parts.new) == parts.ready == desired.num_replicas
    busy = any(r.reconfiguring for r in parts.new)
    return Plan(Verdict.SETTLED if done and not busy else Verdict.CONVERGING, tuple(actions))


def is_halted(desired: Desired, history: History) -> bool:
    """Whether the wanted version is given up. One that has run in full number is retried for ever instead."""
    if desired.num_replicas == 0:
        return False
    return history.never is not None or (not history.settled and history.start_failures >= desired.failure_limit)


def _room(desired: Desired, parts: _Parts, history: History) -> int:
    """How many replicas of the wanted version may start now."""
    missing = desired.num_replicas - len(parts.new)
    if not parts.old:
        return missing
    surge = 0 if history.no_room else desired.surge
    return min(missing, desired.num_replicas + surge - len(parts.new) - len(parts.old))


def _starts(
    desired: Desired, version: str, count: int, history: History, now: float
) -> tuple[list[Action], float | None]:
    if count <= 0:
        return [], None
    allowed_at = history.last_failure_at + backoff_s(history, desired.num_replicas)
    if now < allowed_at:
        return [], allowed_at
    return [Start(version, count)], None


def _stops(desired: Desired, parts: _Parts, history: History) -> list[Action]:
    wanted = desired.num_replicas
    excess = len(parts.new) - wanted
    # The youngest go first, and those that serve nothing yet before those that do.
    leavers = _leavers(parts.new)[: max(0, excess)]
    stops: list[Action] = [Stop(r.replica_id, "fewer replicas are wanted") for r in leavers]
    waiting = [r for r in parts.old if r.phase is not Phase.RUNNING]
    serving = sorted((r for r in parts.old if r.phase is Phase.RUNNING), key=lambda r: r.started_at)
    stops += [Stop(r.replica_id, "a newer version is wanted") for r in waiting]
    spare = max(0, parts.ready - wanted)
    if history.no_room and len(parts.new) < wanted:
        # The new version needs what the old one holds: exchange a wave at a time, stopping first.
        spare = max(spare, desired.wave - max(0, wanted - parts.ready))
    if wanted == 0:
        spare = len(serving)
    return stops + [Stop(r.replica_id, "a newer version is wanted") for r in serving[: max(0, spare)]]


def _leavers(replicas: list[Observed]) -> list[Observed]:
    return sorted(replicas, key=lambda r: (r.phase is Phase.RUNNING, -r.started_at))


def _reconfigures(desired: Desired, parts: _Parts, history: History) -> list[Action]:
    if history.reconfigure_failed is not None and history.reconfigure_failed[0] == desired.config:
        return []
    return [
        Reconfigure(r.replica_id)
        for r in parts.new
        if r.phase is Phase.RUNNING and r.config != desired.config and not r.reconfiguring
    ]


def _hold(desired: Desired, parts: _Parts, history: History, now: float) -> Plan:
    """The wanted version failed: stop what never ran of it, and keep what serves at strength."""
    stops: list[Action] = [
        Stop(r.replica_id, "its version failed to deploy") for r in parts.new if r.phase is not Phase.RUNNING
    ]
    new_ready = [r for r in parts.new if r.phase is Phase.RUNNING]
    total = len(new_ready) + len(parts.old)
    surplus = total - desired.num_replicas
    if surplus > 0:
        return Plan(
            Verdict.HALTED,
            (*stops, *(Stop(r.replica_id, "fewer replicas are wanted") for r in _leavers(parts.old)[:surplus])),
        )
    if desired.fallback is None or surplus == 0:
        return Plan(Verdict.HALTED, tuple(stops))
    # Replicas of the fallback die too. They were fine before, so crashes alone slow down their replacement.
    calm = History(crashes=history.crashes, last_failure_at=history.last_failure_at if history.crashes else 0.0)
    starts, wake_at = _starts(desired, desired.fallback, -surplus, calm, now)
    return Plan(Verdict.HALTED, (*stops, *starts), wake_at)
