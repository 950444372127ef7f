"""Options that change without a restart: the processes stay, and the new value counts."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest

import headrace as serve

from .conditions import deployment, ids, running, until

LIGHT = {
    "num_replicas": (1, 2),
    "autoscaling_config": (None, {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 3}),
    "user_config": ({"threshold": 1}, {"threshold": 2}),
    "max_ongoing_requests": (5, 7),
    "max_queued_requests": (-1, 9),
    "backpressure_config": ({"status_code": 503}, {"status_code": 429}),
    "graceful_shutdown_wait_loop_s": (2.0, 0.5),
    "graceful_shutdown_timeout_s": (20.0, 5.0),
    "health_check_period_s": (10.0, 1.0),
    "health_check_timeout_s": (30.0, 3.0),
    "request_router_config": (
        {"request_router_class": "headrace.router.policy:PowerOfTwoChoices"},
        {"request_router_class": "headrace.router.policy:PowerOfTwoChoices", "initial_backoff_s": 0.05},
    ),
    "max_constructor_retry_count": (20, 3),
    "rolling_update_percentage": (0.2, 0.5),
    "max_surge_percent": (0, 50),
}

HEAVY = {
    "ray_actor_options": ({"num_cpus": 1}, {"num_cpus": 0.5}),
    "max_concurrent_sync": (1, 2),
    "logging_config": ({"log_level": "INFO"}, {"log_level": "DEBUG"}),
}


class Model:
    def __init__(self) -> None:
        self.config: Any = None

    def reconfigure(self, config: Any) -> None:
        self.config = config

    async def __call__(self) -> list[Any]:
        return [os.getpid(), self.config]


def options(name: str, value: Any) -> dict[str, Any]:
    """Short of `None` for autoscaling, which excludes a number of replicas."""
    return {} if value is None else {name: value}


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_option_changes_without_a_restart(http: httpx.Client, name: str) -> None:
    before, after = LIGHT[name]
    model = serve.deployment(Model)
    serve.run(model.options(**options(name, before)).bind())
    (replica,) = running("Model")
    serve.run(model.options(**options(name, after)).bind())
    assert replica.replica_id in ids("Model") and replica.pid in {r.pid for r in running("Model")}
    asked = after if not isinstance(after, dict) else after.items()
    has = deployment("Model").options[name]
    assert has == asked if not isinstance(after, dict) else asked <= has.items()


def test_a_user_config_reaches_every_running_replica(http: httpx.Client) -> None:
    model = serve.deployment(Model).options(num_replicas=2)
    handle = serve.run(model.options(user_config={"threshold": 1}).bind())
    pids = {replica.pid for replica in running("Model")}
    serve.run(model.options(user_config={"threshold": 2}).bind())
    answers = [handle.remote().result() for _ in range(20)]
    assert {pid for pid, _ in answers} <= pids
    assert all(config == {"threshold": 2} for _, config in answers)


@pytest.mark.parametrize("name", HEAVY)
def test_an_option_of_the_process_rolls(http: httpx.Client, name: str) -> None:
    before, after = HEAVY[name]
    model = serve.deployment(Model)
    serve.run(model.options(**{name: before}).bind())
    old = ids("Model")
    serve.run(model.options(**{name: after}).bind())
    until(lambda: len(deployment("Model").replicas) == 1)
    assert not ids("Model") & old
