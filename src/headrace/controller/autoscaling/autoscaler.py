"""One deployment's target: what is observed, what was decided last, and why."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.latency_sketch import Sketch, merged
from headrace.config.spec import AutoscalingStatus, Load, ScalingDecision
from headrace.controller.autoscaling.asker import Opinion
from headrace.controller.autoscaling.caller_loads import CallerLoads
from headrace.controller.autoscaling.capacity import Capacity
from headrace.controller.autoscaling.decision import AutoscalingState, Observation, bounds, decide
from headrace.controller.autoscaling.load_window import LoadWindow
from headrace.controller.autoscaling.replica_metrics import ReplicaMetrics
from headrace.controller.autoscaling.schedule import Scheduled, scheduled_at

KEPT_DECISIONS = 100

RECONNECT_S = 2.0
"""A controller that has started again scales nothing down for so long: callers may not have told it of load yet."""

LONGEST_LOOK_AHEAD_S = 3600.0
"""A schedule is looked at again after so long at the latest: the machine may have slept, or its clock been set."""


class Autoscaler:
    """
    Args:
        config: bounds and pace.
        target: how many replicas are wanted to begin with.
        hold_until: when scaling down may begin, on the clock that `decide` is told of.
        unit: replicas come and go so many at a time: the size of a gang.

    Attributes:
        target: how many replicas are wanted.
        look_again_at: when `decide` should be called although nothing was observed; None for never.
        bounds: the fewest and the most replicas that were allowed when it was last decided.
        capacity: the instance's target capacity.
        needed: how many replicas the load or the policy asked for when it was last decided, before bounds and delays.
    """

    def __init__(self, config: AutoscalingConfig, target: int, hold_until: float = 0.0, unit: int = 1) -> None:
        self.config = config
        self.unit = unit
        self.target = target
        self.look_again_at: float | None = None
        self.bounds = (config.min_replicas, config.max_replicas)
        self.capacity = Capacity()
        self.needed: float | None = None
        self._hold_until = hold_until
        self._state = AutoscalingState()
        self._loads = CallerLoads()
        self._answered: Sketch = {}
        self._metrics = ReplicaMetrics()
        self._queued = LoadWindow()
        self._opinion: Opinion | None = None
        self._reason = "the initial number"
        self._decisions: deque[ScalingDecision] = deque(maxlen=KEPT_DECISIONS)

    def configure(self, config: AutoscalingConfig) -> None:
        """Go by this config from now on. A new `initial_replicas` is where it starts from."""
        if config == self.config:
            return
        self.config = config
        if config.initial_replicas is not None:
            self.target = config.initial_replicas
        self._state = AutoscalingState(load=self._state.load)

    def report(self, caller: str, load: Load, now: float, latencies: Sketch | None = None) -> None:
        """A caller tells what it has under way, and how long what was answered since the last time has taken."""
        self._loads.record(caller, load, now, self.config.metrics_interval_s)
        if latencies:
            self._answered = merged((self._answered, latencies))

    def report_metrics(self, replica_id: str, metrics: Mapping[str, float], now: float) -> None:
        """A replica tells of itself."""
        self._metrics.record(replica_id, metrics, now, self.config.metrics_interval_s)

    def forget_replica(self, replica_id: str) -> bool:
        """A replica serves no more. Returns whether it had told anything."""
        return self._metrics.forget(replica_id)

    @property
    def replica_metrics(self) -> dict[str, dict[str, float]]:
        """What replicas last told of themselves: metric to replica to value."""
        return self._metrics.by_metric

    def forget(self, caller: str) -> bool:
        """A caller is gone. Returns whether that changes the load."""
        return self._loads.forget(caller)

    def decide(self, now: float, running: int, starting: int, opinion: Opinion | None = None) -> ScalingDecision | None:
        """Look at the load and set `target`. Returns the decision if it is another target than before.

        `opinion`: what a policy of the user's says, which then decides in place of the load.
        """
        self._loads.expire(now)
        self._metrics.expire(now)
        ongoing = self._loads.total.ongoing
        self._opinion = opinion
        self._queued = self._queued.observed(now, self._loads.total.queued, self.config.look_back_period_s)
        if now < self._hold_until and not (ongoing and self.target == 0):
            self.look_again_at = self._hold_until
            return None
        scheduled, changes_at = self._scheduled(now)
        observation = Observation(
            now=now,
            running=running,
            starting=starting,
            target=self.target,
            total_ongoing=ongoing,
            latencies=self._answered,
            metrics=self._metrics.by_metric,
            scheduled_min=scheduled.min_replicas,
            scheduled_by=scheduled.reason,
            target_capacity=self.capacity.percent,
            capacity_grows=self.capacity.grows,
            unit=self.unit,
        )
        self._answered = {}
        if opinion is not None:
            wanted = opinion.wanted if opinion.wanted is not None else float(self.target)
            observation = replace(observation, wanted=wanted, wanted_because=opinion.reason)
        self.bounds = bounds(self.config, observation)
        decision = decide(self.config, self._state, observation)
        self._state, self._reason = decision.state, decision.reason
        self.needed = self.needed if decision.needed is None else decision.needed
        soonest = min(changes_at, self._loads.next_expiry, self._metrics.next_expiry)
        if decision.look_again_at is not None:
            soonest = min(soonest, decision.look_again_at)
        self.look_again_at = soonest if soonest < float("inf") else None
        if decision.target == self.target:
            return None
        change = ScalingDecision(
            at=time.time(),
            previous=self.target,
            target=decision.target,
            reason=decision.reason,
            policy=opinion.policy if opinion is not None else None,
        )
        self.target = decision.target
        self._decisions.append(change)
        return change

    def _scheduled(self, now: float) -> tuple[Scheduled, float]:
        """What the schedule says, and when to look at it again."""
        if not self.config.schedule:
            return Scheduled(), math.inf
        moment = datetime.now(UTC)
        scheduled = scheduled_at(self.config.schedule, moment)
        ahead_s = (scheduled.until - moment).total_seconds() if scheduled.until is not None else LONGEST_LOOK_AHEAD_S
        return scheduled, now + min(ahead_s, LONGEST_LOOK_AHEAD_S)

    @property
    def load(self) -> Load:
        """What is under way at this moment."""
        return self._loads.total

    def aggregates(self, now: float) -> tuple[float, float]:
        """Ongoing requests, and the queued ones among them, aggregated as the config says."""
        how, look_back_s, load = self.config.aggregation_function, self.config.look_back_period_s, self._loads.total
        ongoing = self._state.load.observed(now, load.ongoing, look_back_s).aggregate(now, look_back_s, how)
        queued = self._queued.observed(now, load.queued, look_back_s).aggregate(now, look_back_s, how)
        return ongoing, queued

    def last_scaled(self, up: bool) -> float | None:
        """When the target was last raised, or lowered: Unix time, seconds."""
        return next((d.at for d in reversed(self._decisions) if (d.target > d.previous) is up), None)

    def status(self) -> AutoscalingStatus:
        load = self._loads.total
        return AutoscalingStatus(
            queued=load.queued,
            running=load.running,
            callers=len(self._loads),
            reason=self._reason,
            decisions=list(self._decisions),
            needed=self.needed,
            min_replicas=self.bounds[0],
            max_replicas=self.bounds[1],
            policy=self._opinion.policy if self._opinion is not None else None,
            policy_problem=self._opinion.problem if self._opinion is not None else None,
        )
