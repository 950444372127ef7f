"""What others see of a deployment: routers its replica set, people and programs its status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import AutoscalingStatus, DeploymentSpec, DeploymentStatus, DeploymentTargets
from headrace.controller.replica_machine import Phase
from headrace.controller.replica_runner import ReplicaRunner
from headrace.controller.status import Facts, deployment_status, replica_state


def targets(
    spec: DeploymentSpec, options: DeploymentOptions, runners: Iterable[ReplicaRunner], unavailable: str | None
) -> DeploymentTargets:
    """`runners`: the replicas that take requests. `unavailable`: why none does and none will; None if one may yet."""
    serving = sorted(runners, key=lambda r: r.replica_id)
    scaling = options.autoscaling_config
    return DeploymentTargets(
        app=spec.app,
        deployment=spec.name,
        replicas=[r.target() for r in serving],
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        refusal_status_code=options.backpressure_config.status_code,
        refusal_retry_after_s=options.backpressure_config.retry_after_s,
        routing_policy=options.request_router_config.routing_policy,
        retryable_methods=sorted({method for r in serving for method in r.retryable_methods}),
        report_interval_s=scaling.metrics_interval_s if scaling is not None else None,
        latency_target_s=scaling.target_latency_p99_s if scaling is not None else None,
        unavailable=unavailable,
    )


def status(
    spec: DeploymentSpec, facts: Facts, runners: Sequence[ReplicaRunner], autoscaling: AutoscalingStatus | None
) -> DeploymentStatus:
    """What it is doing, in Ray Serve's words and in detail."""
    word, trigger, message = deployment_status(facts)
    states: dict[str, int] = {}
    for runner in runners:
        state = replica_state(runner.replica.phase)
        states[state] = states.get(state, 0) + 1
    return DeploymentStatus(
        name=spec.name,
        status=word,
        status_trigger=trigger,
        message=message,
        replica_states=states,
        target_num_replicas=0 if facts.deleting else facts.target,
        options=spec.options,
        replicas=[r.status() for r in runners],
        description=spec.description,
        autoscaling=autoscaling,
    )


def longest_starting(runners: Iterable[ReplicaRunner], now: float) -> tuple[str, float, str] | None:
    """The replica that has been in its constructor for longest, for how many seconds, and how far it says it is."""
    starting = (
        (r.replica_id, now - r.started_at, r.progress) for r in runners if r.replica.phase is Phase.INITIALIZING
    )
    return max(starting, key=lambda found: found[1], default=None)
