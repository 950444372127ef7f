"""What others see of a deployment: routers its replica set, people and programs its status."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    AutoscalingStatus,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentTargets,
    ReplicaStatus,
    ReplicaTarget,
)
from headrace.controller import running_gangs
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
        replicas=[_target(r) for r in serving],
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
    serving = set(running_gangs.serving({r.replica_id: r for r in runners}))
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
        replicas=[_replica_status(r, serving) for r in runners],
        description=spec.description,
        autoscaling=autoscaling,
    )


def _target(runner: ReplicaRunner) -> ReplicaTarget:
    """A replica as routers see it."""
    where = runner.where
    return ReplicaTarget(
        replica_id=runner.replica_id,
        address=where.address,
        max_ongoing_requests=runner.options.max_ongoing_requests,
        multiplexed_model_ids=runner.multiplexed_model_ids,
        node=where.node,
        zone=where.zone,
        socket=where.listen,
    )


def _replica_status(runner: ReplicaRunner, serving: Container[ReplicaRunner]) -> ReplicaStatus:
    """A replica as people see it."""
    replica = runner.replica
    message = replica.reason
    if replica.busy_s:
        message = f"busy: its code has blocked the event loop for {replica.busy_s:.0f} s"
    elif replica.phase is Phase.STARTING and runner.waiting_for is not None:
        message = f"waiting for resources: {runner.waiting_for}"
    elif replica.phase is Phase.INITIALIZING and not message:
        message = runner.progress
    elif replica.published and runner not in serving:
        message = "waits for the other replicas of its gang"
    return ReplicaStatus(
        replica_id=runner.replica_id,
        state=replica_state(replica.phase),
        pid=replica.pid,
        started_at=runner.started_at_unix,
        message=message,
        node=runner.node,
    )


def longest_starting(runners: Iterable[ReplicaRunner], now: float) -> tuple[str, float, str] | None:
    """The replica that has been in its constructor for longest, for how many seconds, and how far it says it is."""
    starting = (
        (r.replica_id, now - r.started_at, r.progress) for r in runners if r.replica.phase is Phase.INITIALIZING
    )
    return max(starting, key=lambda found: found[1], default=None)
