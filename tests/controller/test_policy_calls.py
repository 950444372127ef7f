"""What a policy may return, and what its process makes of everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from headrace.autoscaling_policy import default_autoscaling_policy, replica_queue_length_autoscaling_policy
from headrace.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy, DeploymentID
from headrace.config.policy_call import DeploymentFacts, PolicyAnswer, PolicyLoad, PolicyQuestion
from headrace.policy_code import policy_spec
from headrace.policy_process import PolicyCalls, PolicyError


def facts(deployment: str = "Model", **more: Any) -> DeploymentFacts:
    given: dict[str, Any] = {
        "deployment": deployment,
        "running_replicas": ["a", "b"],
        "target_num_replicas": 2,
        "total_num_requests": 6.0,
        "total_queued_requests": 1.5,
        "min_replicas": 1,
        "max_replicas": 10,
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 1.0,
        "config": AutoscalingConfig(max_replicas=10).model_dump(mode="json"),
    }
    return DeploymentFacts(**(given | more))


async def loaded(policy: Callable[..., Any], of_application: bool = False, **more: Any) -> PolicyCalls:
    calls = PolicyCalls()
    spec = policy_spec(AutoscalingPolicy(policy_function=policy), "policy")
    await calls.load(PolicyLoad(policy=spec, app="app", of_application=of_application, **more))
    return calls


async def asked(result: Any, of_application: bool = False) -> PolicyAnswer:
    """What becomes of what a policy returns."""

    def policy(ctx: Any) -> Any:
        return result

    calls = await loaded(policy, of_application)
    return await calls.decide(PolicyQuestion(deployments=[facts("Model"), facts("Other")][: 1 + of_application]))


@pytest.mark.parametrize(
    ("result", "target"),
    [(3, 3.0), (2.5, 2.5), ((4, {}), 4.0), ((4, None), 4.0), (np.int64(2), 2.0), (np.float32(1.5), 1.5), (-1, -1.0)],
)
async def test_a_number_or_a_number_and_a_state_is_taken(result: Any, target: float) -> None:
    assert (await asked(result)).targets == {"Model": target}


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "must return a number of replicas, not None (of type NoneType)"),
        ("3", "must return a number of replicas, not '3' (of type str)"),
        (True, "must return a number of replicas, not True (of type bool)"),
        ([3], "must return a number of replicas, not [3] (of type list)"),
        (math.nan, "must return a finite number of replicas, not nan"),
        (math.inf, "must return a finite number of replicas, not inf"),
        ((1, {}, 3), "must return a number of replicas, or that and its state, not (1, {}, 3) (of type tuple)"),
        ((1, 2), "must return a dict as its state, not 2 (of type int)"),
    ],
)
async def test_anything_else_is_said_to_be_wrong(result: Any, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        await asked(result)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("result", "targets"),
    [
        ({}, {}),
        ({DeploymentID("Other", "app"): 2}, {"Other": 2.0}),
        (({"Model": 2}, None), {"Model": 2.0}),
        (({"Model": 2.5}, {DeploymentID("Other", "app"): {"a": 1}}), {"Model": 2.5}),
    ],
)
async def test_an_applications_policy_returns_numbers_by_deployment(result: Any, targets: dict[str, float]) -> None:
    assert (await asked(result, of_application=True)).targets == targets


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (3, "must return a dict of DeploymentID to number of replicas, not 3"),
        ({"Model": "many"}, "must return a number of replicas for Model, not 'many'"),
        ({DeploymentID("Model", "elsewhere"): 1}, "which it was not asked for; it was asked for Model, Other"),
        (({}, {"Nobody": {}}), "returned something for 'Nobody', which it was not asked for"),
        (({}, {"Model": 3}), "must return a dict as its state for Model, not 3"),
    ],
)
async def test_what_an_applications_policy_returns_is_looked_at(result: Any, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        await asked(result, of_application=True)
    assert said in str(caught.value)


async def test_the_state_comes_back_and_outlives_the_process() -> None:
    def counting(ctx: AutoscalingContext) -> Any:
        calls = ctx.policy_state.get("calls", 0) + 1
        return calls, {"calls": calls}

    question = PolicyQuestion(deployments=[facts()])
    first = await loaded(counting)
    await first.decide(question)
    answer = await first.decide(question)
    assert answer.targets == {"Model": 2.0} and answer.states is not None
    second = await loaded(counting, states=answer.states)
    assert (await second.decide(question)).targets == {"Model": 3.0}


async def test_a_state_that_cannot_be_pickled_is_kept_in_the_process() -> None:
    def holding(ctx: AutoscalingContext) -> Any:
        generator = ctx.policy_state.get("numbers") or iter(lambda: 7, 0)
        return 1, {"numbers": (number for number in [1]), "was": generator}

    calls = await loaded(holding)
    question = PolicyQuestion(deployments=[facts()])
    assert (await calls.decide(question)).states is None
    assert (await calls.decide(question)).targets == {"Model": 1.0}


async def test_what_a_policy_raises_is_told_with_its_traceback() -> None:
    def broken(ctx: AutoscalingContext) -> int:
        raise SystemExit("no more")

    calls = await loaded(broken)
    with pytest.raises(PolicyError) as caught:
        await calls.decide(PolicyQuestion(deployments=[facts()]))
    first_line, *traceback = str(caught.value).splitlines()
    assert first_line == "raised SystemExit: no more"
    assert any("in broken" in line for line in traceback) and not any("policy_process" in line for line in traceback)


async def test_the_context_says_what_replicas_tell_of_themselves() -> None:
    seen: list[AutoscalingContext] = []

    def see(ctx: AutoscalingContext) -> float:
        (replica, value), *_ = ctx.aggregated_metrics["queue"].items()
        (series,) = ctx.raw_metrics["queue"].values()
        assert replica in ctx.running_replicas and replica.deployment_id == ctx.deployment_id
        return value + series[-1].value + ctx.total_running_requests

    metrics = {"queue": {"a": 4.0, "gone": 100.0}}
    raw = {"queue": {"a": [(0.5, 3.0), (1.0, 5.0)], "gone": [(0.5, 100.0)]}}
    calls = await loaded(see)
    question = PolicyQuestion(deployments=[facts(aggregated_metrics=metrics, raw_metrics=raw)])
    assert (await calls.decide(question)).targets == {"Model": 4.0 + 5.0 + 4.5}
    assert not seen


async def test_a_policy_can_call_the_default_one() -> None:
    def half(ctx: AutoscalingContext) -> Any:
        target, state = default_autoscaling_policy(ctx)
        return target / 2, state

    calls = await loaded(half)
    answer = await calls.decide(PolicyQuestion(deployments=[facts(total_num_requests=12.0)]))
    assert answer.targets == {"Model": 3.0}


async def test_the_default_policy_does_not_go_by_the_target() -> None:
    """Else a policy that keeps a reserve would raise the target with every call while replicas start."""
    calls = await loaded(default_autoscaling_policy_and_two_more)
    starting = facts(running_replicas=[], target_num_replicas=7, total_num_requests=2.0)
    assert (await calls.decide(PolicyQuestion(deployments=[starting]))).targets == {"Model": 3.0}


def default_autoscaling_policy_and_two_more(ctx: AutoscalingContext) -> float:
    return default_autoscaling_policy(ctx)[0] + 2


@pytest.mark.parametrize(
    "function",
    [
        default_autoscaling_policy,
        replica_queue_length_autoscaling_policy,
        "ray.serve.autoscaling_policy:default_autoscaling_policy",
        "ray.serve.autoscaling_policy.replica_queue_length_autoscaling_policy",
        "headrace.autoscaling_policy:replica_queue_length_autoscaling_policy",
    ],
)
def test_the_default_policy_needs_no_process(function: Any) -> None:
    assert AutoscalingPolicy(policy_function=function).is_default
