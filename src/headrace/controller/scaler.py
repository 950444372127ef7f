"""How many replicas of one deployment are wanted, and who decides that: its options, the load, a policy of the user's,
or something outside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.deployment_options import DeploymentOptions
from headrace.config.policy_call import DeploymentFacts
from headrace.config.spec import ApplicationSpec, AutoscalingStatus, DeploymentSpec, Load, ScalingDecision
from headrace.controller.autoscaling.asker import Asker
from headrace.controller.autoscaling.autoscaler import RECONNECT_S, Autoscaler
from headrace.controller.autoscaling.capacity import Capacity
from headrace.controller.autoscaling.decision import at_capacity, whole_units
from headrace.controller.autoscaling.metric_windows import MetricWindows
from headrace.controller.autoscaling.policy_facts import facts_of
from headrace.controller.replica_machine import Phase
from headrace.controller.replica_runner import ReplicaRunner
from headrace.controller.services import Services
from headrace.controller.spec_reading import gang_size_of, keeps_target

logger = logging.getLogger("headrace.controller")


class Scaled(Protocol):
    """A deployment. `runners`: its replicas, by id."""

    runners: dict[str, ReplicaRunner]


class Scaler:
    """
    Args:
        deployment: whose replicas these are; it is marked when the decision may have become another one.
        spec, application, options: what is wanted.
        target: how many were wanted last, as the store knows it.
        services: of the instance.
    """

    def __init__(
        self,
        deployment: Scaled,
        spec: DeploymentSpec,
        application: ApplicationSpec,
        options: DeploymentOptions,
        target: int | None,
        services: Services,
    ) -> None:
        self._deployment = deployment
        self._spec, self._application, self._options = spec, application, options
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._look_again: asyncio.TimerHandle | None = None
        self._autoscaler: Autoscaler | None = None
        self._policy: Asker | None = None
        self._metrics = MetricWindows()
        self._set_from_outside: int | None = None
        self._capacity = self._capacity_that_holds()
        if options.autoscaling_config is not None:
            self._autoscaler = self._resumed(options.autoscaling_config, target)
            self._policy = services.policies.join(self, spec, application)
        elif application.external_scaler_enabled:
            self._set_from_outside = target

    def _resumed(self, config: AutoscalingConfig, target: int | None) -> Autoscaler:
        if target is None:
            autoscaler = Autoscaler(config, self._at_capacity(self._options.initial_num_replicas), unit=self._unit)
        else:
            autoscaler = Autoscaler(config, target, hold_until=self._loop.time() + RECONNECT_S, unit=self._unit)
        autoscaler.capacity = self._capacity
        return autoscaler

    @property
    def num_replicas(self) -> int:
        """How many replicas are wanted; whole gangs, if there are gangs."""
        if self._autoscaler is not None:
            wanted = self._autoscaler.target
        elif self._set_from_outside is not None:
            wanted = self._set_from_outside
        else:
            wanted = self._at_capacity(self._options.initial_num_replicas)
        return whole_units(wanted, self._unit)

    @property
    def _unit(self) -> int:
        return gang_size_of(self._spec)

    def _capacity_that_holds(self) -> Capacity:
        # The instance's is that of what came from configs. What a driver deployed has none, as in Ray Serve.
        return Capacity() if self._application.config is None else self._services.store.capacity

    def _at_capacity(self, replicas: int) -> int:
        return at_capacity(replicas, self._capacity.percent)

    def capacity_changed(self) -> bool:
        """The instance has another target capacity. Returns whether that is any for this deployment."""
        before, self._capacity = self._capacity, self._capacity_that_holds()
        if self._autoscaler is not None:
            self._autoscaler.capacity = self._capacity
        return self._capacity != before

    def update(self, spec: DeploymentSpec, application: ApplicationSpec, options: DeploymentOptions) -> None:
        """Go by these from now on."""
        had, config = self.num_replicas, options.autoscaling_config
        if not keeps_target(self._spec, self._application, spec, application):
            self._set_from_outside = None
        self._spec, self._application, self._options = spec, application, options
        self.capacity_changed()
        if config is None:
            if self._autoscaler is not None:
                self._autoscaler = None
                self.leave()
                self._services.store.remove_target(spec.app, spec.name)
            return
        if self._autoscaler is None:
            first = had if config.initial_replicas is None else self._at_capacity(config.initial_replicas)
            self._autoscaler = Autoscaler(config, first, unit=self._unit)
            self._autoscaler.capacity = self._capacity
        else:
            self._autoscaler.configure(config)
            self._autoscaler.unit = self._unit
        self._policy = self._services.policies.join(self, spec, application)

    def set_from_outside(self, num_replicas: int) -> bool:
        """Want so many replicas, as something outside says. That is in the store before it is acted on.

        Returns:
            Whether that is another number than before.
        """
        had = self.num_replicas
        if num_replicas == had:
            return False
        self._services.store.put_target(self._spec.app, self._spec.name, num_replicas)
        self._set_from_outside = num_replicas
        self._say(had, num_replicas, "set from outside")
        return True

    def decide(self) -> ScalingDecision | None:
        """Look at the load and the replicas. Returns what was decided if it is another number than before; it is in the
        store then."""
        self.cancel()
        if self._autoscaler is None:
            return None
        phases = [r.replica.phase for r in self._deployment.runners.values() if r.replica.active]
        running = phases.count(Phase.RUNNING)
        opinion = self._policy.opinion(self._spec.name) if self._policy is not None else None
        decision = self._autoscaler.decide(self._loop.time(), running, len(phases) - running, opinion)
        if self._policy is not None:
            scaler, metrics = self._autoscaler, self._autoscaler.replica_metrics
            seen = (scaler.target, scaler.load, scaler.config, metrics, self._running_ids())
            self._policy.look(self._spec.name, seen)
        if self._autoscaler.look_again_at is not None:
            self._look_again = self._loop.call_at(self._autoscaler.look_again_at, self._services.mark, self._deployment)
        if decision is not None:
            self._services.store.put_target(self._spec.app, self._spec.name, decision.target)
            self._say(decision.previous, decision.target, decision.reason)
        return decision

    def cancel(self) -> None:
        """Decide nothing by itself any more."""
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def leave(self) -> None:
        """There is nothing left to decide: no policy is asked any more."""
        self._services.policies.leave(self)
        self._policy = None

    def _say(self, previous: int, target: int, reason: str) -> None:
        logger.info(
            "deployment %s#%s: %d replicas instead of %d: %s",
            self._spec.app,
            self._spec.name,
            target,
            previous,
            reason,
        )

    # What callers have under way.

    def report(self, caller: str, load: Load, latencies: Mapping[int, int] | None = None) -> bool:
        """A caller tells, also how long what was answered took. Returns whether that matters."""
        if self._autoscaler is None:
            return False
        self._autoscaler.report(caller, load, self._loop.time(), latencies)
        return True

    def report_stats(self, replica_id: str, stats: Mapping[str, float]) -> bool:
        """A replica tells of itself. Returns whether that matters."""
        runner = self._deployment.runners.get(replica_id)
        if self._autoscaler is None or runner is None or not runner.replica.active:
            return False
        self._autoscaler.report_metrics(replica_id, stats, self._loop.time())
        return self._policy is not None or bool(self._autoscaler.config.target_metrics)

    def forget_replica(self, replica_id: str) -> None:
        """A replica serves no more."""
        if self._autoscaler is not None:
            self._autoscaler.forget_replica(replica_id)

    def forget(self, caller: str) -> bool:
        """A caller is gone. Returns whether that matters."""
        return self._autoscaler is not None and self._autoscaler.forget(caller)

    # For a policy of the user's, of which this is a `Member`.

    @property
    def policy_interval_s(self) -> float:
        assert self._autoscaler is not None
        return self._autoscaler.config.metrics_interval_s

    def policy_facts(self) -> DeploymentFacts:
        assert self._autoscaler is not None, "a policy decides for deployments that scale themselves"
        now, scaler = self._loop.time(), self._autoscaler
        self._metrics.observe(now, scaler.replica_metrics, scaler.config.look_back_period_s)
        return facts_of(scaler, self._metrics, self._spec.name, self._running_ids(), now)

    def policy_answered(self) -> None:
        self._services.mark(self._deployment)

    def _running_ids(self) -> list[str]:
        return [r.replica_id for r in self._deployment.runners.values() if r.replica.phase is Phase.RUNNING]

    # What others see.

    @property
    def policy_problem(self) -> tuple[str, str] | None:
        """Name of the policy that does not decide at present, and why."""
        return self._policy.problem if self._policy is not None else None

    def status(self) -> AutoscalingStatus | None:
        return self._autoscaler.status() if self._autoscaler is not None else None
