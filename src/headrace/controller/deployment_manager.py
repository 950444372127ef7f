"""Brings one deployment's replicas to what is wanted, and keeps them there."""

from __future__ import annotations

import asyncio
import logging

from msgspec.structs import replace

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    ApplicationSpec,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentTargets,
    GangPlace,
    Load,
    ReplicaSpec,
)
from headrace.controller import deployment_view, gangs, reconcile, running_gangs
from headrace.controller.allocation import allocate_all
from headrace.controller.history import History, after_failure, after_running, after_settling, backoff_s
from headrace.controller.ranks import Rank, closed_places, free, joining
from headrace.controller.reconcile import Desired, Plan, Reconfigure, Start, Stop, Verdict
from headrace.controller.replica_counts import DeploymentCounts
from headrace.controller.replica_machine import Cause, Phase, Replica
from headrace.controller.replica_runner import ReplicaRunner
from headrace.controller.scaler import Scaler
from headrace.controller.services import Services
from headrace.controller.spec_reading import (
    PROCESS_PREFIX,
    config_of,
    differ,
    gang_place_of,
    gang_size_of,
    options_of,
    process_of,
    resources_of,
)
from headrace.controller.status import Change, Facts, last_lines
from headrace.controller.store import StoredVersion
from headrace.controller.watch import targets_key
from headrace.engine.process import ProcessInfo
from headrace.engine.resources import Refusal
from headrace.exceptions import ConfigError

logger = logging.getLogger("headrace.controller")


class DeploymentManager:
    """One deployment of one application."""

    def __init__(
        self, spec: DeploymentSpec, application: ApplicationSpec, stored: StoredVersion, services: Services
    ) -> None:
        self.app, self.name = spec.app, spec.name
        self.key = targets_key(spec.app, spec.name)
        self.spec = spec
        self.application = application
        self.options = options_of(spec)
        self.config = config_of(spec)
        self.deleting = False
        self.runners: dict[str, ReplicaRunner] = {}
        self.change = Change.DEPLOY
        self.in_transition = True
        self.verdict = Verdict.CONVERGING
        self._good = stored.good
        self._recovered = False
        self._unannounced = False
        self._waiting_for: str | None = None
        self._wake: asyncio.Handle | None = None
        self._wake_at = 0.0
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._scaler = Scaler(self, spec, application, self.options, stored.target, services)
        self._told: str | None = None
        self._history = self._recall(stored)
        self.publish()

    def _recall(self, stored: StoredVersion) -> History:
        if stored.halted == self.spec.version:
            return History(start_failures=self.desired().failure_limit, last_failure=stored.reason)
        return History(settled=stored.good is not None and stored.good.version == self.spec.version)

    # What is wanted.

    @property
    def num_replicas(self) -> int:
        """How many replicas are wanted."""
        return self._scaler.num_replicas

    def scale(self, num_replicas: int) -> None:
        """Want so many replicas, as something outside says."""
        had = self.num_replicas
        if self._scaler.set_from_outside(num_replicas):
            self._rescale(had)
            self._services.mark(self)

    def _rescale(self, had: int) -> None:
        """Another number is wanted, and nothing else is new."""
        if self.verdict is not Verdict.HALTED and not (self.in_transition and self.change is Change.DEPLOY):
            self._begin(Change.AUTO_UPSCALE if self.num_replicas > had else Change.AUTO_DOWNSCALE)

    def update(self, spec: DeploymentSpec, application: ApplicationSpec) -> None:
        """Want this from now on. What needs no restart is taken on by the running replicas.

        Raises:
            ConfigError: the options are wrong; nothing has changed then.
        """
        options, had, was_deleting = options_of(spec), self.num_replicas, self.deleting
        self.application, self.options, self.deleting = application, options, False
        old_spec, self.spec = self.spec, spec
        self.config = config_of(spec)
        self._scaler.update(spec, application, options)
        if spec.version != old_spec.version or self.verdict is Verdict.HALTED or was_deleting:
            # A deploy asks for another try, also of what was given up.
            settled = self._good is not None and self._good.version == spec.version
            self._history = History(settled=settled)
            self._begin(Change.DEPLOY)
        elif spec.options != old_spec.options:
            self._history = replace(self._history, reconfigure_failed=None)
            wanted = self.num_replicas
            only_scaled = {**spec.options, "num_replicas": 0} == {**old_spec.options, "num_replicas": 0}
            self._begin(Change.DEPLOY if not only_scaled else Change.UPSCALE if wanted > had else Change.DOWNSCALE)
        elif self.num_replicas != had:
            self._begin(Change.UPSCALE if self.num_replicas > had else Change.DOWNSCALE)
        for runner in self.runners.values():
            if runner.version == spec.version and runner.config == self.config:
                runner.options = options
        self.publish()
        self._services.mark(self)

    def _begin(self, change: Change) -> None:
        self.change, self.in_transition, self._recovered, self.verdict = change, True, False, Verdict.CONVERGING

    def delete(self) -> None:
        """Want no replicas any more."""
        self.deleting = True
        self._scaler.leave()
        self.publish()
        self._services.mark(self)

    @property
    def gone(self) -> bool:
        return self.deleting and not self.runners

    @property
    def waiting(self) -> bool:
        """Whether a replica waits for resources."""
        return self._waiting_for is not None

    @property
    def serving(self) -> int:
        return len(running_gangs.serving(self.runners))

    @property
    def ready(self) -> bool:
        """Whether something serves, or nothing is wanted."""
        return self.serving > 0 or self.num_replicas == 0

    @property
    def proven(self) -> bool:
        """Whether all that is wanted runs. A version that sleeps since it was deployed has not shown that it can."""
        return self.verdict is Verdict.SETTLED and self._history.settled and not self.in_transition and not self.failed

    @property
    def failed(self) -> bool:
        """Whether what is wanted was given up, or refused by the replicas."""
        return self.verdict is Verdict.HALTED or self._history.reconfigure_failed is not None

    def desired(self) -> Desired:
        good = self._good.version if self._good is not None else None
        return Desired(
            version=self.spec.version,
            config=self.config,
            num_replicas=self.num_replicas,
            rolling_update_percentage=self.options.rolling_update_percentage,
            max_surge_percent=self.options.max_surge_percent,
            max_constructor_retry_count=self.options.max_constructor_retry_count,
            fallback=good if good != self.spec.version else None,
            unit=gang_size_of(self.spec),
            fallback_unit=gang_size_of(self._good) if self._good is not None else 1,
        )

    # Reconciling.

    def reconcile(self) -> None:
        """Look at everything, and do what is to be done now."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self.deleting:
            for runner in list(self.runners.values()):
                runner.stop()
            return
        self._autoscale()
        seen = running_gangs.units(self.runners, self._services.leaving)
        for replica_id, reason in seen.broken.items():
            logger.info("ending replica %s: %s", replica_id, reason)
            self.runners[replica_id].stop(within_s=gangs.SIBLING_DRAIN_S)
        plan = reconcile.plan(self.desired(), seen.units, self._history, self._loop.time())
        if plan.wake_at is not None:
            self._wake_at = plan.wake_at
            self._wake = self._loop.call_at(plan.wake_at, self._services.mark, self)
        self._waiting_for = None
        for action in plan.actions:
            match action:
                case Start(version, count):
                    self._start(version, count)
                case Stop(unit, reason):
                    for replica_id in seen.members[unit]:
                        logger.debug("stopping replica %s: %s", replica_id, reason)
                        self.runners[replica_id].stop()
                case Reconfigure(unit):
                    for replica_id in seen.members[unit]:
                        self._reconfigure(self.runners[replica_id])
        for runner in self.runners.values():
            if runner.waiting_for is not None and runner.replica.active:
                self._wait_for(runner.waiting_for, runner.version)
        self._conclude(plan)

    def _reconfigure(self, runner: ReplicaRunner) -> None:
        if runner.config != self.config:
            spec = self._replica_spec(runner.replica_id, self.spec, runner.place, runner.gang)
            runner.reconfigure(spec, self.options, self.config)

    def _autoscale(self) -> None:
        if self.verdict is Verdict.HALTED and not self.serving:
            self._scaler.cancel()
            return
        decision = self._scaler.decide()
        if decision is not None:
            self._rescale(decision.previous)

    def _conclude(self, plan: Plan) -> None:
        before, self.verdict = self.verdict, plan.verdict
        if plan.verdict is Verdict.SETTLED:
            if self.in_transition:
                self.in_transition = False
                logger.debug("deployment %s is up: %d replicas", self.key, len(self.runners))
            if self.num_replicas:
                self._prove_good()
            self._close_ranks()
        elif plan.verdict is Verdict.HALTED:
            if before is not Verdict.HALTED:
                self._give_up()
        elif not self.in_transition:
            self._recovered = True
        if before is not plan.verdict or self._unannounced:
            self.publish()

    def _prove_good(self) -> None:
        """All replicas run. (A version that sleeps has not shown yet that it can.)"""
        self._history = after_settling(self._history)
        if self._history.reconfigure_failed is None and (self._good is None or differ(self._good, self.spec)):
            self._good = self.spec
            self._services.store.put_version(self.app, self.name, StoredVersion(good=self.spec))

    def _give_up(self) -> None:
        # The traceback has been told when the first of its replicas failed.
        logger.error("deployment %s failed: %s", self.key, self.status().message.partition("\n")[0])
        if self._history.never is None:
            version = StoredVersion(good=self._good, halted=self.spec.version, reason=self._history.last_failure)
            self._services.store.put_version(self.app, self.name, version)

    def _start(self, version: str, count: int) -> None:
        spec = self._spec_of(version)
        assert spec is not None, "only the wanted version and the fallback are ever started"
        options = options_of(spec)
        environment, size = self.application.runtime_env, gang_size_of(spec)
        ranks = iter(free({r.place.rank for r in self.runners.values() if r.replica.active}, count))
        for _ in range(count // size):
            ids = [f"{self.key}#{self._services.short_ids.new()}" for _ in range(size)]
            gang = gangs.new_gang(ids) if options.gang_scheduling_config is not None else [None]
            places = dict(zip(ids, gang, strict=True))
            requests = {
                f"{PROCESS_PREFIX}{replica_id}": resources_of(spec, options, environment, place)
                for replica_id, place in places.items()
            }
            granted = allocate_all(self._services.engine, requests)
            if isinstance(granted, Refusal):
                for replica_id in ids:
                    self._services.short_ids.free(replica_id)
                self._refused(granted, spec.version)
                return
            for warning in filter(None, (allocation.warning for allocation in granted)):
                logger.warning("%s", warning)
            for (replica_id, place), rank in zip(places.items(), ranks, strict=False):
                runner = self._runner(replica_id, spec, options, config_of(spec), rank=rank, gang=place)
                self.runners[replica_id] = runner
                services = self._services
                runner.start(
                    process_of(replica_id, spec, options, environment, services.logging, services.tracing, place)
                )

    def _refused(self, refusal: Refusal, version: str) -> None:
        if refusal.kind == "never" and version == self.spec.version:
            self._history = replace(self._history, never=f"A replica cannot be placed: {refusal.reason}.")
            self._services.mark(self)
        else:
            self._wait_for(refusal.reason, version)

    def _wait_for(self, reason: str, version: str) -> None:
        """A replica of `version` has no place at present."""
        self._waiting_for = reason
        old = any(r.version != version and r.replica.active for r in self.runners.values())
        if old and not self._history.no_room and not self._services.anyone_leaving():
            self._history = replace(self._history, no_room=True)
            self._services.mark(self)

    def _spec_of(self, version: str) -> DeploymentSpec | None:
        for spec in (self.spec, self._good):
            if spec is not None and spec.version == version:
                return spec
        return None

    def _replica_spec(self, replica_id: str, spec: DeploymentSpec, place: Rank, gang: GangPlace | None) -> ReplicaSpec:
        return ReplicaSpec(
            replica_id=replica_id,
            deployment=spec,
            route_prefix=self.application.route_prefix,
            rank=place.rank,
            node_rank=place.node,
            local_rank=place.local,
            world_size=self.num_replicas,
            root_path=self._services.root_path,
            max_body_bytes=self._services.max_body_bytes,
            runtime_env=self.application.runtime_env,
            gang=gang,
        )

    def _close_ranks(self) -> None:
        """Where replicas have gone and none comes in their place, others take their ranks, as in Ray Serve."""
        if self._history.reconfigure_failed is not None:
            return
        active = (r for r in self.runners.values() if r.replica.active)
        for replica_id, place in closed_places({r.replica_id: (r.node, r.place) for r in active}).items():
            runner = self.runners[replica_id]
            runner.take_rank(self._replica_spec(replica_id, self.spec, place, runner.gang))

    def _placed(self, runner: ReplicaRunner) -> Rank:
        """The ranks of a replica of which it is known now where it runs."""
        others = [(r.node, r.place) for r in self.runners.values() if r is not runner and r.node and r.replica.active]
        return joining(runner.place.rank, runner.node, others)

    # Replicas.

    def _runner(
        self,
        replica_id: str,
        spec: DeploymentSpec | None,
        options: DeploymentOptions,
        config: str,
        version: str = "",
        rank: int = 0,
        gang: GangPlace | None = None,
    ) -> ReplicaRunner:
        return ReplicaRunner(
            replica_id=replica_id,
            spec=self._replica_spec(replica_id, spec, Rank(rank), gang) if spec is not None else None,
            options=options,
            version=spec.version if spec is not None else version,
            config=config,
            process=f"{PROCESS_PREFIX}{replica_id}",
            secret=self._services.secret,
            engine=self._services.engine,
            on_change=self._changed,
            on_reconfigured=self._reconfigured,
            on_waiting=lambda: self._services.mark(self),
            on_placed=self._placed,
            counts=self._services.counts.setdefault((self.app, self.name), DeploymentCounts()),
        )

    async def adopt(self, info: ProcessInfo) -> None:
        """Take over a replica that an earlier controller started."""
        replica_id, version = info.args["replica_id"], info.args["version"]
        spec = self._spec_of(version)
        # What it was last told is not known for certain; being told again costs nothing.
        [rank] = free({r.place.rank for r in self.runners.values() if r.replica.active}, 1)
        gang = gang_place_of(info)
        runner = self._runner(replica_id, spec, self.options, config="", version=version, rank=rank, gang=gang)
        runner.gang = gang
        self.runners[replica_id] = runner
        await runner.adopt(info)
        if runner.spec is not None:
            runner.config = config_of(runner.spec.deployment)
            try:
                runner.options = options_of(runner.spec.deployment)
            except ConfigError:
                logger.warning("replica %s runs with options of another version of Headrace", replica_id)
        if self._unannounced:
            self.publish()  # watchers are let in before anything is reconciled
        self._services.mark(self)

    def _changed(self, runner: ReplicaRunner, before: Replica) -> None:
        after = runner.replica
        if after.phase is Phase.FAILED and before.phase is not Phase.FAILED:
            self._failed(runner)
        came_up = after.phase is Phase.RUNNING and before.phase is not Phase.RUNNING
        # One replica that comes up again and again says nothing of a gang in which another never does.
        if came_up and runner.version == self.spec.version and running_gangs.is_whole(runner, self.runners):
            self._history = after_running(self._history)
        if after.process_gone:
            self.runners.pop(runner.replica_id, None)
            self._loop.call_soon(self._services.room_made)
        if before.active and not after.active:
            self._scaler.forget_replica(runner.replica_id)
        if before.published and not after.published:
            self.publish()
        elif after.published and not before.published:
            # All that come up in one turn of the loop are told of together.
            self._unannounced = True
        self._services.mark(self)

    def _failed(self, runner: ReplicaRunner) -> None:
        cause, reason, now = runner.replica.cause, runner.replica.reason, self._loop.time()
        assert cause is not None
        if not running_gangs.is_first_loss(runner, self.runners):
            logger.debug("replica %s of a broken gang died too: %s", runner.replica_id, reason)
            return
        ran_s = running_gangs.ran_s(runner, self.runners, now)
        if runner.version != self.spec.version and ran_s is None:
            cause, ran_s = Cause.CRASH, 0.0  # a fallback that does not start again is no fault of the wanted version
        self._history = after_failure(self._history, cause, ran_s, reason, now)
        wait_s = backoff_s(self._history, self.desired().num_units)
        again = f"another starts in {wait_s:.1f} s" if wait_s else "another starts now"
        if cause in (Cause.START, Cause.CONSTRUCTOR):
            told, self._told = self._told, reason
            why = "for the same reason" if told == reason else f"\n{last_lines(reason)}"
            logger.warning("replica %s failed to start: %s", runner.replica_id, why)
        else:
            logger.warning("replica %s died: %s; %s", runner.replica_id, reason, again)

    def _reconfigured(self, runner: ReplicaRunner, config: str, refused: str | None) -> None:
        if refused is not None and config == self.config:
            self._history = replace(self._history, reconfigure_failed=(config, refused))
            logger.error("replica %s: reconfigure(user_config) raised:\n%s", runner.replica_id, last_lines(refused))
        self.publish()
        self._services.mark(self)

    def report_models(self, replica_id: str, model_ids: list[str]) -> None:
        """A replica says which multiplexed models it holds."""
        if replica_id in self.runners:
            self.runners[replica_id].multiplexed_model_ids = model_ids
            self.publish()

    def report_load(self, caller: str, load: Load, latencies: dict[int, int] | None = None) -> None:
        """A caller tells what it has under way here, and how long what was answered took."""
        if self._scaler.report(caller, load, latencies):
            self._services.mark(self)

    def report_stats(self, replica_id: str, stats: dict[str, float]) -> None:
        """A replica tells what its `record_autoscaling_stats` returned."""
        if self._scaler.report_stats(replica_id, stats):
            self._services.mark(self)

    def capacity_changed(self) -> None:
        """The instance has another target capacity."""
        had = self.num_replicas
        if self._scaler.capacity_changed():
            wanted = self.num_replicas
            if wanted != had:
                self._begin(Change.UPSCALE if wanted > had else Change.DOWNSCALE)
            self._services.mark(self)

    def forget_caller(self, caller: str) -> None:
        """A caller is gone, and with it what it had under way."""
        if self._scaler.forget(caller):
            self._services.mark(self)

    # What others see.

    def publish(self) -> None:
        """Tell routers of the replica set, if it is news to them."""
        self._unannounced = False
        self._services.hub.set(self.key, self.targets())

    def targets(self) -> DeploymentTargets:
        unavailable = None
        if self.deleting:
            unavailable = f"deployment '{self.name}' of application '{self.app}' is being deleted"
        elif self.verdict is Verdict.HALTED and not self.serving:
            unavailable = f"deployment '{self.name}' of application '{self.app}' failed: {self.status().message}"
        return deployment_view.targets(self.spec, self.options, running_gangs.serving(self.runners), unavailable)

    def status(self) -> DeploymentStatus:
        desired, now = self.desired(), self._loop.time()
        runners = list(self.runners.values())
        running = [r for r in runners if r.replica.phase is Phase.RUNNING]
        facts = Facts(
            target=desired.num_replicas,
            running=sum(r.version == self.spec.version for r in running),
            serving=len(running),
            failure_limit=desired.failure_limit,
            verdict=self.verdict,
            history=self._history,
            change=self.change,
            in_transition=self.in_transition,
            recovered=self._recovered,
            deleting=self.deleting,
            waiting_for=self._waiting_for,
            retry_in_s=self._wake_at - now if self._wake is not None else None,
            busy=tuple((r.replica_id, r.replica.busy_s) for r in running if r.replica.busy_s),
            starting=deployment_view.longest_starting(runners, now),
            policy_problem=self._scaler.policy_problem,
        )
        return deployment_view.status(self.spec, facts, runners, self._scaler.status())

    def close(self) -> None:
        """Let go of everything and leave the replicas as they are."""
        if self._wake is not None:
            self._wake.cancel()
        self._scaler.cancel()
        for runner in self.runners.values():
            runner.cancel()
