"""What every deployment's manager is handed: where processes run, who is told, what is remembered."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.controller.replica_counts import DeploymentCounts
from headrace.controller.short_ids import ShortIds
from headrace.controller.store import Store
from headrace.controller.watch import WatchHub
from headrace.engine.process import ProcessExited
from headrace.engine.protocol import Engine

if TYPE_CHECKING:
    from headrace.controller.autoscaling.policies import Policies


@dataclass(frozen=True, slots=True)
class Services:
    """
    Attributes:
        root_path, max_body_bytes: the instance's HTTP options that replicas need.
        counts: what has happened to replicas, by application and deployment.
        logging: how replicas log that have no logging_config of their own.
        tracing: how replicas trace requests, a dumped TracingConfig.
        mark: asks for a manager's next look at its replicas; called with itself.
        room_made: called when resources have become free.
        anyone_leaving: whether any replica of the instance is on its way out, which will free resources.
        policies: the autoscaling policies that users have written.
        short_ids: of the instance's processes.
        leaving: the machines that are to go.
    """

    engine: Engine
    store: Store
    hub: WatchHub
    session_dir: Path
    secret: bytes
    mark: Callable[[object], None]
    room_made: Callable[[], None]
    anyone_leaving: Callable[[], bool]
    policies: Policies
    short_ids: ShortIds
    root_path: str = ""
    max_body_bytes: int | None = None
    logging: dict[str, Any] = field(default_factory=dict)
    tracing: dict[str, Any] = field(default_factory=dict)
    counts: dict[tuple[str, str], DeploymentCounts] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)


def describe_exit(exited: ProcessExited) -> str:
    """How a process ended, for people."""
    if exited.signal is not None:
        name = signal.Signals(exited.signal).name if exited.signal in signal.valid_signals() else str(exited.signal)
        hint = " (perhaps by the system, for want of memory)" if exited.signal == signal.SIGKILL else ""
        return f"its process {exited.pid} was killed by {name}{hint}"
    if exited.exit_code is None and exited.reason:
        return f"its process {exited.pid} ended: {exited.reason}"
    return f"its process {exited.pid} ended with exit code {exited.exit_code}"
