"""Waiting for conditions instead of sleeping, and what conditions look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace import client as driver
from headrace.config.spec import DeploymentStatus, ReplicaStatus


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `condition()` is true.

    Raises:
        AssertionError: it is not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        threading.Event().wait(0.01)


def deployment(name: str, app: str = "default") -> DeploymentStatus:
    """What the controller says of a deployment."""
    for application in driver.find().status().applications:
        if application.name == app:
            return next(deployment for deployment in application.deployments if deployment.name == name)
    raise LookupError(f"no application {app!r}")


def running(name: str, app: str = "default") -> list[ReplicaStatus]:
    """The replicas of a deployment that serve."""
    return [replica for replica in deployment(name, app).replicas if replica.state == "RUNNING"]


def ids(name: str, app: str = "default") -> set[str]:
    """Their ids, by which a replica that was replaced is known."""
    return {replica.replica_id for replica in running(name, app)}


def lines(path: Path) -> list[str]:
    """What replicas have noted in a file so far."""
    return path.read_text().splitlines() if path.exists() else []
