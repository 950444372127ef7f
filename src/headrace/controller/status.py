"""Statuses in Ray Serve's words, as pure functions of what is wanted, what is, and what went wrong."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from headrace.config.spec import DeploymentStatus
from headrace.controller.history import History
from headrace.controller.reconcile import Verdict
from headrace.controller.replica_machine import Phase

TRACEBACK_LINES = 12
"""How much of a failed constructor's traceback a status message carries; the whole of it is in the replica's log."""


SLOW_START_S = 5.0
"""A replica that has been starting for so long is told of: its constructor may be loading a model, or may hang."""


class Change(enum.Enum):
    """What the last change of a deployment's target was."""

    DEPLOY = "deploy"
    UPSCALE = "upscale"
    DOWNSCALE = "downscale"
    AUTO_UPSCALE = "auto upscale"
    AUTO_DOWNSCALE = "auto downscale"


class Facts(msgspec.Struct, frozen=True):
    """What the status of one deployment is told from.

    Attributes:
        running: replicas of the wanted version that serve. `serving`: of any version.
        change: the last change of the target; `in_transition` while it has not been reached yet.
        recovered: replicas have failed and come back since the target was reached.
        waiting_for: what resources a replica waits for.
        retry_in_s: seconds until a replica is tried again.
        busy: replicas whose user code blocks their event loop, and for how long.
        starting: the replica that has been starting for longest, for how long, seconds, and how far it says it is.
        policy_problem: name of the autoscaling policy that does not decide at present, and why.
    """

    target: int
    running: int
    serving: int
    failure_limit: int
    verdict: Verdict
    history: History
    change: Change = Change.DEPLOY
    in_transition: bool = True
    recovered: bool = False
    deleting: bool = False
    waiting_for: str | None = None
    retry_in_s: float | None = None
    busy: tuple[tuple[str, float], ...] = ()
    starting: tuple[str, float, str] | None = None
    policy_problem: tuple[str, str] | None = None


_STARTED = {
    Change.DEPLOY: "UPDATING",
    Change.UPSCALE: "UPSCALING",
    Change.DOWNSCALE: "DOWNSCALING",
    Change.AUTO_UPSCALE: "UPSCALING",
    Change.AUTO_DOWNSCALE: "DOWNSCALING",
}
_COMPLETED = {
    Change.DEPLOY: "CONFIG_UPDATE_COMPLETED",
    Change.UPSCALE: "UPSCALE_COMPLETED",
    Change.DOWNSCALE: "DOWNSCALE_COMPLETED",
    Change.AUTO_UPSCALE: "UPSCALE_COMPLETED",
    Change.AUTO_DOWNSCALE: "DOWNSCALE_COMPLETED",
}


def deployment_status(facts: Facts) -> tuple[str, str, str]:
    """Status, trigger and message of one deployment."""
    if facts.deleting:
        return "UPDATING", "DELETING", ""
    if facts.verdict is Verdict.HALTED:
        return "DEPLOY_FAILED", "REPLICA_STARTUP_FAILED", _halted(facts)
    if facts.history.reconfigure_failed is not None:
        reason = last_lines(facts.history.reconfigure_failed[1])
        message = f"reconfigure(user_config) raised; the replicas that refused it keep what they had. Error:\n{reason}"
        return "DEPLOY_FAILED", "REPLICA_STARTUP_FAILED", message
    if facts.in_transition:
        scales_itself = facts.change in (Change.AUTO_UPSCALE, Change.AUTO_DOWNSCALE)
        return _STARTED[facts.change], "AUTOSCALING" if scales_itself else "CONFIG_UPDATE_STARTED", _progress(facts)
    if facts.verdict is Verdict.SETTLED:
        return "HEALTHY", "UNSPECIFIED" if facts.recovered else _COMPLETED[facts.change], _remarks(facts)
    return "UNHEALTHY", "HEALTH_CHECK_FAILED", _progress(facts)


def _halted(facts: Facts) -> str:
    if facts.history.never is not None:
        message = facts.history.never
    else:
        message = (
            f"Gave up after {_count(facts.history.start_failures, 'failed start')} of a replica "
            f"(limit {facts.failure_limit}). Last error:\n{last_lines(facts.history.last_failure)}"
        )
    if facts.serving:
        message += f"\nThe update is stopped; {_count(facts.serving, 'replica')} that ran before keep serving."
    return message


def _progress(facts: Facts) -> str:
    """What is still missing and why, the most useful thing first."""
    parts = []
    if facts.running < facts.target:
        parts.append(f"{facts.running} of {_count(facts.target, 'replica')} running.")
    if facts.starting is not None:
        replica_id, seconds, progress = facts.starting
        if progress:
            parts.append(f"Replica {replica_id}: {progress} ({seconds:.0f} s).")
        elif seconds >= SLOW_START_S:
            parts.append(f"Replica {replica_id} has been in its constructor for {seconds:.0f} s.")
    if facts.waiting_for is not None:
        parts.append(f"Waiting for resources: {facts.waiting_for}")
    failing = facts.history.start_failures or facts.history.crashes or not facts.in_transition
    if facts.history.last_failure and facts.running < facts.target and failing:
        parts.append(_last_failure(facts))
    return " ".join(parts)


def _last_failure(facts: Facts) -> str:
    history = facts.history
    if history.crashes:
        message = f"Replicas keep dying soon after they start ({history.crashes} in a row)."
    elif history.start_failures and not history.settled:
        left = max(0, facts.failure_limit - history.start_failures)
        message = f"A replica failed to start; {_count(left, 'more try', 'more tries')} before giving up."
    elif history.start_failures:
        message = f"{_count(history.start_failures, 'replica')} in a row failed to start."
    else:
        message = "A replica was lost and is being replaced."
    if facts.retry_in_s is not None and facts.retry_in_s > 0:
        message += f" Next try in {facts.retry_in_s:.1f} s."
    return f"{message} Error:\n{last_lines(history.last_failure)}"


def _remarks(facts: Facts) -> str:
    """What is noteworthy where all that is wanted runs."""
    remarks = [
        f"Replica {replica_id} is busy: its code has blocked the event loop for {blocked_s:.0f} s."
        for replica_id, blocked_s in facts.busy
    ]
    if facts.policy_problem is not None:
        name, problem = facts.policy_problem
        stay = f"{_count(facts.target, 'replica')} {'stays' if facts.target == 1 else 'stay'}"
        remarks.append(f"{stay}, since the autoscaling policy {name} {last_lines(problem)}")
    return " ".join(remarks)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def last_lines(text: str, lines: int = TRACEBACK_LINES) -> str:
    """The end of a traceback, where the reason stands."""
    kept = text.rstrip().splitlines()
    return "\n".join(["…", *kept[-lines:]] if len(kept) > lines else kept)


def application_status(deployments: Sequence[DeploymentStatus], deleting: bool, build: str | None) -> tuple[str, str]:
    """Status and message of an application.

    `build`: None if nothing is being built; "" while it is; otherwise why it failed.
    """
    if deleting:
        return "DELETING", ""
    if build:
        return "DEPLOY_FAILED", build
    for status in ("DEPLOY_FAILED", "UNHEALTHY"):
        failing = [d for d in deployments if d.status == status]
        if failing and build is None:  # what is being built will replace what fails
            return status, "\n".join(f"Deployment {d.name!r}: {d.message}" for d in failing)
    scaling = ("UPSCALING", "DOWNSCALING")
    moving = [
        d
        for d in deployments
        if d.status == "UPDATING" or (d.status in scaling and d.status_trigger == "CONFIG_UPDATE_STARTED")
    ]
    if build is not None or moving or not deployments:
        return "DEPLOYING", "\n".join(f"Deployment {d.name!r}: {d.message}" for d in moving if d.message)
    return "RUNNING", ""


def replica_state(phase: Phase) -> str:
    """Ray Serve's word for a replica's phase."""
    match phase:
        case Phase.STARTING | Phase.INITIALIZING:
            return "STARTING"
        case Phase.RUNNING:
            return "RUNNING"
        case Phase.DRAINING | Phase.FAILED:
            return "STOPPING"
        case Phase.STOPPED:
            return "STOPPED"
