"""The life of one replica as a pure function: (replica, event) to (replica, actions).

Sockets, processes and clocks are elsewhere (`replica_runner`). Feeding any event in any state is allowed: events that
no longer matter, such as a constructor that finishes after its replica was told to stop, change nothing.

    STARTING ──connected──▶ INITIALIZING ──initialized──▶ RUNNING ──stop wanted──▶ DRAINING ──process gone──▶ STOPPED
        └──────────────┬──────────┴────────────────────────┘
                       ▼ broke, or its process ended
                     FAILED
"""

from __future__ import annotations

import enum

import msgspec
from msgspec.structs import replace

UNHEALTHY_AFTER = 3
"""Health checks that must fail or time out in a row before a replica is replaced."""


class Phase(enum.StrEnum):
    STARTING = "STARTING"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class Cause(enum.StrEnum):
    """Why a replica failed. What broke before it ever ran counts against the deployment's retry budget."""

    START = "start"  # the process could not be started, or ended before its constructor returned
    CONSTRUCTOR = "constructor"
    HEALTH = "health"
    CRASH = "crash"  # the process ended, or became unreachable, while it was running


# --- events -----------------------------------------------------------------------------------------------------------


class ProcessStarted(msgspec.Struct, frozen=True):
    pid: int


class StartRefused(msgspec.Struct, frozen=True):
    """The engine could not start the process: there is none."""

    reason: str


class Adopted(msgspec.Struct, frozen=True):
    """A controller that has just started found this replica alive. `phase` is what the replica says of itself."""

    pid: int
    phase: Phase


class Connected(msgspec.Struct, frozen=True):
    pass


class ConnectFailed(msgspec.Struct, frozen=True):
    reason: str


class ConnectionLost(msgspec.Struct, frozen=True):
    pass


class Initialized(msgspec.Struct, frozen=True):
    pass


class InitializeFailed(msgspec.Struct, frozen=True):
    reason: str


class HealthOk(msgspec.Struct, frozen=True):
    pass


class HealthFailed(msgspec.Struct, frozen=True):
    reason: str


class HealthTimedOut(msgspec.Struct, frozen=True):
    timeout_s: float


class FoundBusy(msgspec.Struct, frozen=True):
    """`check_health` timed out, and the replica's other thread says that user code blocks the event loop."""

    blocked_s: float


class FoundStopped(msgspec.Struct, frozen=True):
    """`check_health` timed out, and the process is stopped (SIGSTOP): nothing in it runs, whatever it is sent."""

    timeout_s: float


class ProcessExited(msgspec.Struct, frozen=True):
    reason: str


class StopWanted(msgspec.Struct, frozen=True):
    pass


class Drained(msgspec.Struct, frozen=True):
    pass


class DrainTimedOut(msgspec.Struct, frozen=True):
    pass


Event = (
    ProcessStarted
    | StartRefused
    | Adopted
    | Connected
    | ConnectFailed
    | ConnectionLost
    | Initialized
    | InitializeFailed
    | HealthOk
    | HealthFailed
    | HealthTimedOut
    | FoundBusy
    | FoundStopped
    | ProcessExited
    | StopWanted
    | Drained
    | DrainTimedOut
)


class Action(enum.Enum):
    CONNECT = "connect"
    INITIALIZE = "initialize"
    AWAIT_CONSTRUCTOR = "await constructor"  # `initialize` was called over a connection that is gone
    PUBLISH = "publish"  # routers may send requests
    UNPUBLISH = "unpublish"  # routers stop sending; always before DRAIN and KILL
    WATCH_HEALTH = "watch health"
    DRAIN = "drain"
    KILL = "kill"
    RELEASE = "release"  # the process is gone: its resources are free


class Replica(msgspec.Struct, frozen=True):
    """`process_gone`: no process remains, nothing will happen any more. `reason`: why it failed."""

    phase: Phase = Phase.STARTING
    pid: int | None = None
    process_gone: bool = False
    published: bool = False
    ever_ran: bool = False
    kill_sent: bool = False
    health_failures: int = 0
    busy_s: float = 0.0
    cause: Cause | None = None
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether it serves or may come to serve."""
        return self.phase in (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING)


Step = tuple[Replica, tuple[Action, ...]]


def step(replica: Replica, event: Event) -> Step:
    """What `event` makes of `replica`, and what is to be done about it, in order."""
    if replica.process_gone:
        return replica, ()
    match event:
        case ProcessExited(reason):
            return _gone(replica, reason)
        case StartRefused(reason):
            return _gone(replica, reason)
        case ProcessStarted(pid):
            replica = replace(replica, pid=pid)
            if replica.phase is Phase.STARTING:
                return replica, (Action.CONNECT,)
            # Told to stop while it was being started: the first kill may have come before there was a process.
            return replica, () if replica.active else (Action.KILL,)
        case Adopted(pid, phase):
            fresh = replica.phase is Phase.STARTING and replica.pid is None
            return _adopt(replace(replica, pid=pid), phase) if fresh else (replica, ())
        case StopWanted():
            return _stop(replica)
        case Drained() | DrainTimedOut():
            return (replica, ()) if replica.active else _kill(replica)
        case ConnectionLost():
            # No death: that comes as ProcessExited, with a better reason than could be told from here.
            return (replica, (Action.CONNECT,)) if replica.active else _kill(replica)
        case ConnectFailed(reason):
            if not replica.active:
                return _kill(replica)
            cause = Cause.CRASH if replica.ever_ran else Cause.START
            return _fail(replica, cause, f"cannot be reached: {reason}")
        case Connected():
            if replica.phase is Phase.STARTING:
                return replace(replica, phase=Phase.INITIALIZING), (Action.INITIALIZE,)
            return replica, (Action.AWAIT_CONSTRUCTOR,) if replica.phase is Phase.INITIALIZING else ()
        case Initialized():
            return _run(replica) if replica.phase is Phase.INITIALIZING else (replica, ())
        case InitializeFailed(reason):
            if replica.phase is not Phase.INITIALIZING:
                return replica, ()
            return _fail(replica, Cause.CONSTRUCTOR, reason)
        case HealthOk():
            if replica.phase is not Phase.RUNNING:
                return replica, ()
            return replace(replica, health_failures=0, busy_s=0.0), ()
        case HealthFailed(reason):
            return _unwell(replica, f"check_health failed: {reason}")
        case HealthTimedOut(timeout_s):
            return _unwell(replica, f"check_health did not answer within {timeout_s:g} s")
        case FoundBusy(blocked_s):
            if replica.phase is not Phase.RUNNING:
                return replica, ()
            # A blocked loop is the user's code at work. It says nothing of the checks before it.
            return replace(replica, busy_s=blocked_s), ()
        case FoundStopped(timeout_s):
            if replica.phase is not Phase.RUNNING:
                return replica, ()
            # It answers nothing that is in flight either: there is nothing to wait for.
            reason = f"its process was stopped (SIGSTOP) and did not answer within {timeout_s:g} s"
            return _fail(replica, Cause.HEALTH, reason)


def _run(replica: Replica) -> Step:
    replica = replace(replica, phase=Phase.RUNNING, published=True, ever_ran=True)
    return replica, (Action.PUBLISH, Action.WATCH_HEALTH)


def _adopt(replica: Replica, phase: Phase) -> Step:
    match phase:
        case Phase.RUNNING:
            return _run(replica)
        case Phase.INITIALIZING:
            return replace(replica, phase=phase), (Action.AWAIT_CONSTRUCTOR,)
        case Phase.STARTING:
            return replace(replica, phase=Phase.INITIALIZING), (Action.INITIALIZE,)
        case Phase.DRAINING:
            return replace(replica, phase=phase, ever_ran=True), (Action.DRAIN,)
        case Phase.STOPPED | Phase.FAILED:
            return _kill(replace(replica, phase=Phase.DRAINING))


def _stop(replica: Replica) -> Step:
    if replica.phase is Phase.RUNNING:
        return replace(replica, phase=Phase.DRAINING, published=False), (Action.UNPUBLISH, Action.DRAIN)
    if replica.active:  # nothing can be in flight where nothing was ever published
        return _kill(replace(replica, phase=Phase.DRAINING))
    return replica, ()


def _unwell(replica: Replica, reason: str) -> Step:
    if replica.phase is not Phase.RUNNING:
        return replica, ()
    replica = replace(replica, health_failures=replica.health_failures + 1, busy_s=0.0)
    if replica.health_failures < UNHEALTHY_AFTER:
        return replica, ()
    failed = replace(replica, phase=Phase.FAILED, published=False, cause=Cause.HEALTH, reason=reason)
    # Requests in flight may still be answered: they get the time that a drain would give them.
    return failed, (Action.UNPUBLISH, Action.DRAIN)


def _fail(replica: Replica, cause: Cause, reason: str) -> Step:
    first = (Action.UNPUBLISH,) if replica.published else ()
    failed, then = _kill(replace(replica, phase=Phase.FAILED, published=False, cause=cause, reason=reason))
    return failed, first + then


def _kill(replica: Replica) -> Step:
    if replica.kill_sent:
        return replica, ()
    return replace(replica, kill_sent=True), (Action.KILL,)


def _gone(replica: Replica, reason: str) -> Step:
    gone = replace(replica, process_gone=True, published=False)
    if replica.phase is Phase.DRAINING:
        gone = replace(gone, phase=Phase.STOPPED)
    elif replica.phase is not Phase.FAILED:
        cause = Cause.CRASH if replica.ever_ran else Cause.START
        gone = replace(gone, phase=Phase.FAILED, cause=cause, reason=reason)
    first = (Action.UNPUBLISH,) if replica.published else ()
    return gone, (*first, Action.RELEASE)
