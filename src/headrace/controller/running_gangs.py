"""What gangs are at this moment, read off the replicas of a deployment."""

from __future__ import annotations

from collections.abc import Mapping, Set

from headrace.controller import gangs
from headrace.controller.reconcile import Observed
from headrace.controller.replica_machine import Phase
from headrace.controller.replica_runner import ReplicaRunner

Runners = Mapping[str, ReplicaRunner]
"""The replicas of a deployment that have not gone, by id."""


def units(runners: Runners, leaving: Set[str]) -> gangs.Seen:
    """Replicas and gangs, as `reconcile` plans them. `leaving`: the machines that are to go."""
    observed = [
        Observed(
            r.replica_id, r.version, r.config, r.replica.phase, r.started_at, r.reconfiguring, leaving=r.node in leaving
        )
        for r in runners.values()
    ]
    return gangs.see(observed, {r.replica_id: r.gang for r in runners.values() if r.gang is not None})


def serving(runners: Runners) -> list[ReplicaRunner]:
    """The replicas that take requests: of a gang, all or none."""
    published = [r for r in runners.values() if r.replica.published]
    if all(r.gang is None for r in published):
        return published
    phases = _phases(runners)
    return [r for r in published if r.gang is None or gangs.is_whole(r.gang, phases)]


def is_whole(runner: ReplicaRunner, runners: Runners) -> bool:
    """Whether nobody of a replica's gang is missing; one without a gang is a whole."""
    return runner.gang is None or gangs.is_whole(runner.gang, _phases(runners))


def is_first_loss(runner: ReplicaRunner, runners: Runners) -> bool:
    """Whether a replica that has failed has not done so because another of its gang had."""
    return runner.gang is None or gangs.is_first_loss(runner.gang, runner.replica_id, _phases(runners))


def ran_s(runner: ReplicaRunner, runners: Runners, now: float) -> float | None:
    """For how long a replica that has failed ran, in a gang from when the last of it came up; None if it never did."""
    members = [runner] if runner.gang is None else [runners[member] for member in runner.gang.member_replica_ids]
    since = [moment for member in members if (moment := member.running_since) is not None]
    return now - max(since) if len(since) == len(members) else None


def _phases(runners: Runners) -> dict[str, Phase]:
    return {replica_id: runner.replica.phase for replica_id, runner in runners.items()}
