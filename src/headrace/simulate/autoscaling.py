"""An autoscaled deployment under a load trace, in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.autoscaling_policy import DEFAULT_POLICY
from headrace.config.latency_sketch import sketch_of
from headrace.config.schedule import zone_of
from headrace.controller.autoscaling.capacity import Capacity
from headrace.controller.autoscaling.decision import AutoscalingState, Observation, at_capacity, bounds, decide
from headrace.controller.autoscaling.schedule import Scheduled, scheduled_at
from headrace.exceptions import ConfigError
from headrace.simulate.arrivals import Arrivals, ServiceTime
from headrace.simulate.replica_pool import Floats, ReplicaPool, Span, percentile
from headrace.simulate.result import Change, Latencies, Result, Row, Totals
from headrace.simulate.trace import LoadTrace

MOST_ROWS = 720
_ROW_LENGTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)

_DECISIONS_AT_ONCE = 10
"""A decision may ask to be looked at again at once; more often than this in a row it would never let time pass."""


@dataclass(frozen=True)
class Deployment:
    """What is simulated.

    Attributes:
        autoscaling: bounds and pace.
        service: how long a replica works on a request.
        start_s: from the decision for a replica until it serves, seconds.
        max_ongoing_requests: a replica never holds more.
        concurrency: how many of them it works on at a time without slowing down: 1 for a model that computes, None for
            all that it holds, as for code that waits for others.
        max_queued_requests: how many may wait at callers before the next is refused; None for no limit.
        target_capacity: percentage of all replicas, as a first config asks for it; None for all.
        begins_at: when the trace begins, for a schedule: a clock time in the time zone of its first entry, or any
            moment that knows its own; None for midnight of a Monday.
    """

    autoscaling: AutoscalingConfig
    service: ServiceTime
    start_s: float = 5.0
    max_ongoing_requests: int = 5
    concurrency: int | None = None
    max_queued_requests: int | None = None
    target_capacity: float | None = None
    begins_at: datetime | None = None


def simulate(
    deployment: Deployment,
    trace: LoadTrace,
    *,
    seed: int = 0,
    poisson: bool = True,
    latency_target_s: float | None = None,
) -> Result:
    """Replay a trace.

    The deployment begins with its initial replicas running. Callers and replicas report every `metrics_interval_s` how
    many requests are ongoing; a request that finds no replicas wanted is told of at once. What is decided is decided by
    the code that decides in a running instance.

    Args:
        seed: the same seed gives the same result.
        poisson: whether requests arrive independently of each other, or evenly spaced.
        latency_target_s: for `Totals.above_target_s`; None for `target_latency_p99_s`, and without that for five times
            the service time.

    Raises:
        ConfigError: a policy of the user's decides, or metrics of the replicas do; those may be what is not simulated.
    """
    policy = deployment.autoscaling.policy.policy_function
    if policy != DEFAULT_POLICY:
        raise ConfigError(
            f"policy: '{policy}' cannot be simulated, only what decides by default; remove it to try that"
        )
    if deployment.autoscaling.target_metrics:
        raise ConfigError(
            "target_metrics: what replicas tell of themselves cannot be simulated; remove it to try the other targets"
        )
    aimed_at_s = deployment.autoscaling.target_latency_p99_s or 5 * deployment.service.mean_s
    target_s = latency_target_s if latency_target_s is not None else aimed_at_s
    return _Simulation(deployment, trace, Arrivals(trace, deployment.service, seed, poisson), target_s).run()


class _Simulation:
    def __init__(self, deployment: Deployment, trace: LoadTrace, arrivals: Arrivals, latency_target_s: float) -> None:
        self.deployment, self.trace, self.arrivals = deployment, trace, arrivals
        self.config = deployment.autoscaling
        self.latency_target_s = latency_target_s
        self.concurrency = deployment.concurrency or deployment.max_ongoing_requests
        self.pool = ReplicaPool(deployment.max_ongoing_requests, self.concurrency, deployment.max_queued_requests)
        initial = self.config.initial_replicas
        self.capacity = Capacity().after(deployment.target_capacity, same_applications=False)
        self.begins_at = _moment(deployment)
        self.target = at_capacity(self.config.min_replicas if initial is None else initial, self.capacity.percent)
        self.answered: Counter[int] = Counter()  # since the last report, by bucket of the sketch
        self.told: Counter[int] = Counter()  # reported, and not looked at yet
        self.ready_at: list[float] = []  # of each replica that is starting, soonest first
        self.state = AutoscalingState()
        self.look_at = 0.0
        self.now = 0.0
        lowest, highest = bounds(self.config, self._observation()[0])
        self.target = min(max(self.target, lowest), highest)
        self.pool.resize(self.target)
        self.row_s = next(
            (row_s for row_s in _ROW_LENGTHS_S if trace.duration_s / row_s <= MOST_ROWS), trace.duration_s / MOST_ROWS
        )
        self.rows: list[Row] = []
        self.changes: list[Change] = []
        self.latencies = Latencies()
        self.row_begin_s = 0.0
        self.row_spans: list[tuple[float, Span]] = []  # each with its length
        self.requests = self.refused = 0
        self.replica_seconds = self.running_seconds = 0.0
        self.most_replicas = self.target

    def run(self) -> Result:
        end_s = self.trace.duration_s
        interval_s = self.config.metrics_interval_s
        reports = rows = 1
        while self.now < end_s:
            report_at, row_at = reports * interval_s, rows * self.row_s
            until = min(end_s, report_at, row_at, self.look_at if self.look_at > self.now else math.inf)
            if self.ready_at:
                until = min(until, self.ready_at[0])
            if self.target == 0:
                # Just past the first arrival, so that it is among what has arrived.
                until = min(until, float(np.nextafter(self.arrivals.next_s(), math.inf)))
            self._pass(until)
            if self.now >= report_at:
                reports += 1
                self.told, self.answered = self.told + self.answered, Counter()
            self._take_up_replicas()
            if self.now >= report_at or self.now >= self.look_at or self.target == 0:
                self._decide()
            if self.now >= row_at or self.now >= end_s:
                rows += 1
                self._end_row()
        return Result(self.row_s, self.rows, self.changes, self._totals())

    def _pass(self, until: float) -> None:
        length = until - self.now
        span = self.pool.advance(until, *self.arrivals.until(until))
        self.replica_seconds += (self.pool.replicas + len(self.ready_at)) * length
        self.running_seconds += self.pool.replicas * length
        self.refused += span.refused
        self.requests += span.accepted + span.refused
        self.row_spans.append((length, span))
        if self.config.target_latency_p99_s is not None:
            self.answered.update(sketch_of(span.latencies_s.tolist()))
        self.now = until

    def _take_up_replicas(self) -> None:
        ready = sum(at <= self.now for at in self.ready_at)
        if ready:
            del self.ready_at[:ready]
            self.pool.resize(self.pool.replicas + ready)

    def _decide(self) -> None:
        for _ in range(_DECISIONS_AT_ONCE):
            observation, changes_at = self._observation()
            decision = decide(self.config, self.state, observation)
            self.state, self.told = decision.state, Counter()
            if decision.target != self.target:
                self._scale(decision.target, decision.reason)
            self.look_at = changes_at if decision.look_again_at is None else min(changes_at, decision.look_again_at)
            if self.look_at > self.now:
                return

    def _observation(self) -> tuple[Observation, float]:
        """What is the case, and when the schedule changes that."""
        scheduled, changes_at = Scheduled(), math.inf
        if self.config.schedule:
            scheduled = scheduled_at(self.config.schedule, self.begins_at + timedelta(seconds=self.now))
            if scheduled.until is not None:
                # Just past it, since a moment is only known to the microsecond.
                changes_at = (scheduled.until - self.begins_at).total_seconds() + 1e-5
        observation = Observation(
            now=self.now,
            running=self.pool.replicas,
            starting=len(self.ready_at),
            target=self.target,
            total_ongoing=float(self.pool.in_system),
            latencies=self.told,
            scheduled_min=scheduled.min_replicas,
            scheduled_by=scheduled.reason,
            target_capacity=self.capacity.percent,
            capacity_grows=self.capacity.grows,
        )
        return observation, changes_at

    def _scale(self, target: int, reason: str) -> None:
        self.changes.append(Change(self.now, self.target, target, reason))
        self.target = target
        missing = target - self.pool.replicas - len(self.ready_at)
        if missing > 0:
            self.ready_at += [self.now + self.deployment.start_s] * missing
            if self.deployment.start_s == 0:
                self._take_up_replicas()
        elif missing < 0:
            # Those that serve nothing yet go first, the youngest before the others.
            cancelled = min(-missing, len(self.ready_at))
            del self.ready_at[len(self.ready_at) - cancelled :]
            if self.pool.replicas > target:
                self.pool.resize(target)
        self.most_replicas = max(self.most_replicas, self.pool.replicas + len(self.ready_at))

    def _end_row(self) -> None:
        spans = [span for _, span in self.row_spans]
        row_s = self.now - self.row_begin_s
        in_system = sum(length * span.in_system for length, span in self.row_spans) / row_s
        queued = sum(length * span.queued for length, span in self.row_spans) / row_s
        latencies: Floats = np.concatenate([span.latencies_s for span in spans])
        self.latencies.add(latencies)
        refused = sum(span.refused for span in spans)
        arrived = sum(span.accepted for span in spans) + refused
        self.rows.append(
            Row(
                time_s=self.now,
                load=arrived / row_s,
                target=self.target,
                running=self.pool.replicas,
                queued=queued,
                ongoing=in_system - queued,
                answered=latencies.size,
                refused=refused,
                latency_p50_s=percentile(latencies, 0.5),
                latency_p99_s=percentile(latencies, 0.99),
                oldest_wait_s=self.pool.oldest_wait_s,
            )
        )
        self.row_begin_s, self.row_spans = self.now, []

    def _totals(self) -> Totals:
        above = [max(row.oldest_wait_s, np.nan_to_num(row.latency_p99_s)) > self.latency_target_s for row in self.rows]
        ends = np.array([0.0, *(row.time_s for row in self.rows)])
        duration_s = self.trace.duration_s
        places = self.running_seconds * min(self.concurrency, self.deployment.max_ongoing_requests)
        return Totals(
            duration_s=duration_s,
            requests=self.requests,
            answered=self.latencies.count,
            refused=self.refused,
            unanswered=self.pool.in_system,
            replica_hours=self.replica_seconds / 3600,
            mean_replicas=self.replica_seconds / duration_s,
            most_replicas=self.most_replicas,
            utilization=self.pool.worked_s / places if places else math.nan,
            latency_mean_s=self.latencies.mean,
            latency_p50_s=self.latencies.percentile(0.5),
            latency_p99_s=self.latencies.percentile(0.99),
            latency_max_s=self.latencies.highest_s,
            latency_target_s=self.latency_target_s,
            above_target_s=float(np.diff(ends)[above].sum()),
        )


def _moment(deployment: Deployment) -> datetime:
    begins_at = deployment.begins_at or datetime(2026, 1, 5)
    if begins_at.tzinfo is None:
        schedule = deployment.autoscaling.schedule
        begins_at = begins_at.replace(tzinfo=zone_of(schedule[0].timezone) if schedule else UTC)
    return begins_at.astimezone(UTC)
