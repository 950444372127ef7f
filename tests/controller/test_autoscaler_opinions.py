"""One deployment's autoscaler and what a policy says of it."""

from __future__ import annotations

from typing import Any

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.spec import Load
from headrace.controller.autoscaling.asker import Opinion
from headrace.controller.autoscaling.autoscaler import Autoscaler


def autoscaler(target: int, **options: Any) -> Autoscaler:
    quick = {"min_replicas": 0, "max_replicas": 9, "upscale_delay_s": 0, "downscale_delay_s": 0}
    return Autoscaler(AutoscalingConfig(**{**quick, **options}), target)


def says(wanted: float | None, problem: str | None = None) -> Opinion:
    return Opinion("m:f", wanted, f"the policy m:f asks for {wanted}" if wanted is not None else f"{problem}", problem)


def test_a_policys_decision_is_kept_with_its_name_and_reason() -> None:
    scaler = autoscaler(1)
    change = scaler.decide(0.0, 1, 0, says(3))
    assert change is not None and (change.previous, change.target, change.policy) == (1, 3, "m:f")
    assert change.reason == "the policy m:f asks for 3"
    assert scaler.status().policy == "m:f" and scaler.last_scaled(up=True) == change.at
    assert scaler.last_scaled(up=False) is None


def test_a_policy_that_says_nothing_leaves_the_target_whatever_the_load_is() -> None:
    scaler = autoscaler(2)
    scaler.report("a", Load(running=100), 0.0)
    assert scaler.decide(0.0, 2, 0, says(None, "raised ValueError")) is None
    assert scaler.target == 2
    status = scaler.status()
    assert (status.reason, status.policy_problem) == ("raised ValueError", "raised ValueError")


def test_a_step_that_waited_is_off_when_the_policy_fails() -> None:
    scaler = autoscaler(1, upscale_delay_s=10)
    scaler.decide(0.0, 1, 0, says(3))
    scaler.decide(9.0, 1, 0, says(None, "is gone"))
    scaler.decide(11.0, 1, 0, says(3))
    assert scaler.target == 1
    scaler.decide(21.0, 1, 0, says(3))
    assert scaler.target == 3


def test_a_request_wakes_what_sleeps_though_the_policy_fails() -> None:
    scaler = autoscaler(0)
    scaler.report("a", Load(queued=1), 0.0)
    scaler.decide(0.0, 0, 0, says(None, "is gone"))
    assert scaler.target == 1


def test_queued_requests_are_aggregated_by_themselves() -> None:
    scaler = autoscaler(1, look_back_period_s=10, min_replicas=1, max_replicas=1)
    scaler.decide(0.0, 1, 0)
    scaler.report("a", Load(queued=4, running=2), 5.0)
    scaler.decide(5.0, 1, 0)
    assert scaler.aggregates(10.0) == (3.0, 2.0)
