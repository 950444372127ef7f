"""What is to be done so that a deployment's replicas become what is wanted: values in, a plan out.

`plan` looks at the whole state each time and never at how it came about, so it may run at any moment, any number of
times, also after a restart of the controller.

Updates add before they remove: while replicas of an older version serve, replicas of the wanted version start beyond
the wanted number (the surge), and old ones go as soon as as many new ones run. Where resources do not allow a surge,
old ones go first, a wave at a time.

What is started and stopped is a unit: a replica, or a gang of several. Counts are of replicas throughout.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

from headrace.controller.autoscaling.decision import whole_units
from headrace.controller.history import History, backoff_s
from headrace.controller.replica_machine import Phase

RETRIES_PER_REPLICA = 3
"""A deployment gives up after `min(max_constructor_retry_count, RETRIES_PER_REPLICA * num_replicas)` failed starts."""


class Desired(msgspec.Struct, frozen=True):
    """What is wanted.

    Attributes:
        config: hash of the options that a running replica takes on without a restart.
        num_replicas: a multiple of `unit`.
        fallback: the version that last ran in full number, while it is not the wanted one. If the wanted version fails,
            what remains of the fallback is kept at strength.
        unit: how many replicas of the wanted version make a gang; 1 where there are no gangs.
        fallback_unit: the same for the fallback.
    """

    version: str
    config: str
    num_replicas: int
    rolling_update_percentage: float = 0.2
    max_surge_percent: int = 0
    max_constructor_retry_count: int = 20
    fallback: str | None = None
    unit: int = 1
    fallback_unit: int = 1

    @property
    def wave(self) -> int:
        """How many replicas may be exchanged at a time; always at least a unit."""
        return whole_units(max(1, int(self.rolling_update_percentage * self.num_replicas)), self.unit)

    @property
    def surge(self) -> int:
        """How many replicas may exist beyond `num_replicas` during an update; always at least a unit."""
        if self.max_surge_percent > 0:
            return whole_units(math.ceil(self.max_surge_percent * self.num_replicas / 100), self.unit)
        return self.wave

    @property
    def num_units(self) -> int:
        return self.num_replicas // self.unit

    @property
    def failure_limit(self) -> int:
        return max(1, min(self.max_constructor_retry_count, RETRIES_PER_REPLICA * max(1, self.num_units)))


class Observed(msgspec.Struct, frozen=True):
    """One unit as it is: a replica, or a gang of `size`. `started_at` orders them by age. `leaving`: its machine is to
    go, so that it is replaced like one of an older version."""

    replica_id: str
    version: str
    config: str
    phase: Phase
    started_at: float
    reconfiguring: bool = False
    size: int = 1
    leaving: bool = False


class Verdict(enum.Enum):
    SETTLED = "settled"  # everything is as wanted
    CONVERGING = "converging"
    BACKING_OFF = "backing off"  # waits for `wake_at` before the next start
    HALTED = "halted"  # given up; only a new deploy changes that


class Start(msgspec.Struct, frozen=True):
    """`count`: replicas, a multiple of the version's unit."""

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
        return _running(self.new) + _running(self.old)

    @property
    def largest_old(self) -> int:
        return max((r.size for r in self.old), default=0)


def _count(units: Sequence[Observed]) -> int:
    return sum(r.size for r in units)


def _running(units: Sequence[Observed]) -> int:
    return sum(r.size for r in units if r.phase is Phase.RUNNING)


_ACTIVE = (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING)


def plan(desired: Desired, replicas: Sequence[Observed], history: History, now: float) -> Plan:
    """What to do next. Replicas that are on their way out are of no interest here and may be left out."""
    parts = _Parts()
    for replica in replicas:
        if replica.phase in _ACTIVE:
            stays = replica.version == desired.version and not replica.leaving
            (parts.new if stays else parts.old).append(replica)
    if is_halted(desired, history):
        return _hold(desired, parts, history, now)
    starts, wake_at = _starts(desired, desired.version, _room(desired, parts, history), history, now)
    actions: list[Action] = [*starts, *_stops(desired, parts, history), *_reconfigures(desired, parts, history)]
    if wake_at is not None:
        return Plan(Verdict.BACKING_OFF, tuple(actions), wake_at)
    done = not actions and not parts.old and _count(parts.new) == parts.ready == desired.num_replicas
    busy = any(r.reconfiguring for r in parts.new)
    return Plan(Verdict.SETTLED if done and not busy else Verdict.CONVERGING, tuple(actions))


def is_halted(desired: Desired, history: History) -> bool:
    """Whether the wanted version is given up. One that has run in full number is retried for ever instead."""
    if desired.num_replicas == 0:
        return False
    return history.never is not None or (not history.settled and history.start_failures >= desired.failure_limit)


def _room(desired: Desired, parts: _Parts, history: History) -> int:
    """How many replicas of the wanted version may start now."""
    missing = desired.num_replicas - _count(parts.new)
    if not parts.old:
        return missing
    # With old gangs that are larger, one of them can only go when as many new replicas serve beyond what is wanted.
    # What leaves with its machine has no time for waves.
    leaving = _count([r for r in parts.old if r.leaving])
    surge = 0 if history.no_room else max(desired.surge, whole_units(max(parts.largest_old, leaving), desired.unit))
    room = desired.num_replicas + surge - _count(parts.new) - _count(parts.old)
    return min(missing, whole_units(max(0, room), desired.unit))


def _starts(
    desired: Desired, version: str, count: int, history: History, now: float
) -> tuple[list[Action], float | None]:
    if count <= 0:
        return [], None
    allowed_at = history.last_failure_at + backoff_s(history, desired.num_units)
    if now < allowed_at:
        return [], allowed_at
    return [Start(version, count)], None


def _stops(desired: Desired, parts: _Parts, history: History) -> list[Action]:
    wanted = desired.num_replicas
    # The youngest go first, and those that serve nothing yet before those that do.
    leavers = _as_many_as(_leavers(parts.new), _count(parts.new) - wanted)
    stops: list[Action] = [Stop(r.replica_id, "fewer replicas are wanted") for r in leavers]
    waiting = [r for r in parts.old if r.phase is not Phase.RUNNING]
    serving = sorted((r for r in parts.old if r.phase is Phase.RUNNING), key=lambda r: r.started_at)
    stops += [Stop(r.replica_id, _why_old(r)) for r in waiting]
    spare = max(0, parts.ready - wanted)
    if history.no_room and _running(parts.new) < wanted:
        # The new version needs what the old one holds: exchange a wave at a time, stopping first.
        wave = max(desired.wave, whole_units(parts.largest_old, desired.unit))
        spare = max(spare, wave - max(0, wanted - parts.ready))
    if wanted == 0:
        spare = _count(serving)
    return stops + [Stop(r.replica_id, _why_old(r)) for r in _as_many_as(serving, spare)]


def _why_old(unit: Observed) -> str:
    return "its machine is to go" if unit.leaving else "a newer version is wanted"


def _as_many_as(units: Sequence[Observed], replicas: int) -> list[Observed]:
    """The first units that have no more than so many replicas together; one that is too large is passed over."""
    chosen = []
    for unit in units:
        if unit.size <= replicas:
            chosen.append(unit)
            replicas -= unit.size
    return chosen


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
    surplus = _count(new_ready) + _count(parts.old) - desired.num_replicas
    if surplus > 0:
        stops += [Stop(r.replica_id, "fewer replicas are wanted") for r in _as_many_as(_leavers(parts.old), surplus)]
        return Plan(Verdict.HALTED, tuple(stops))
    if desired.fallback is None or surplus == 0:
        return Plan(Verdict.HALTED, tuple(stops))
    # Replicas of the fallback die too. They were fine before, so crashes alone slow down their replacement.
    calm = History(crashes=history.crashes, last_failure_at=history.last_failure_at if history.crashes else 0.0)
    starts, wake_at = _starts(desired, desired.fallback, whole_units(-surplus, desired.fallback_unit), calm, now)
    return Plan(Verdict.HALTED, (*stops, *starts), wake_at)
