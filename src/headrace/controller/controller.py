"""The controller: desired state in, actual state out.

Level-triggered: whatever happens (a deploy, a replica's end, a timer) only marks a deployment to be looked at, and
looking at it compares all that is wanted with all that is. Nothing is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import random
from pathlib import Path

from headrace.config.instance import InstanceConfig
from headrace.config.spec import (
    ApplicationHistory,
    ApplicationSpec,
    ApplicationStatus,
    DeploymentTargets,
    InstanceStatus,
    Load,
    RollbackReply,
    RoutingTable,
)
from headrace.controller import replica_machine as rm
from headrace.controller.adoption import adopt_all
from headrace.controller.applications import Applications
from headrace.controller.autoscaling.callers import Callers
from headrace.controller.autoscaling.policies import Policies
from headrace.controller.builds import Builds
from headrace.controller.deployment_manager import DeploymentManager
from headrace.controller.instance_view import node_statuses, proxy_statuses
from headrace.controller.metrics import ControllerMetrics
from headrace.controller.observed.sampler import Sampler
from headrace.controller.services import Services, describe_exit
from headrace.controller.short_ids import ShortIds
from headrace.controller.spec_reading import PROCESS_PREFIX
from headrace.controller.store import Store
from headrace.controller.watch import ROUTES, WatchHub
from headrace.engine.protocol import Engine
from headrace.engine.session import Session
from headrace.exceptions import NotRunningError

logger = logging.getLogger("headrace.controller")

VERSION = importlib.metadata.version("headrace")

RETRY_AFTER_ERROR_S = 1.0
SHUTDOWN_SLACK_S = 5.0
"""What the slowest graceful shutdown of a deployment may take longer than it says."""


class Controller:
    """
    Args:
        engine: where processes run.
        session_dir: folder of the instance; replicas' sockets are in it.
        secret: the instance's secret.
        store: what is wanted.
        config: what the instance was started with.
    """

    def __init__(
        self, engine: Engine, session_dir: Path, secret: bytes, store: Store, config: InstanceConfig | None = None
    ) -> None:
        self.engine = engine
        self.session_dir = session_dir
        self.secret = secret
        self.config = config if config is not None else InstanceConfig()
        self.hub = WatchHub(self._unknown)
        self.callers = Callers(self._caller_gone)
        http = self.config.http
        self._loop = asyncio.get_running_loop()
        log_options = self.config.logging.model_dump(mode="json")
        self._short_ids = ShortIds()
        self.policies = Policies(engine, secret, self._short_ids, log_options)
        self._services = Services(
            engine=engine,
            store=store,
            hub=self.hub,
            session_dir=session_dir,
            secret=secret,
            mark=self.mark,
            room_made=self._room_made,
            anyone_leaving=self._anyone_leaving,
            policies=self.policies,
            short_ids=self._short_ids,
            root_path=http.root_path if http is not None else "",
            max_body_bytes=http.max_body_bytes if http is not None else None,
            logging=log_options,
            tracing=self.config.tracing.model_dump(mode="json"),
        )
        self._dirty: dict[DeploymentManager, None] = {}
        self._waiting: set[DeploymentManager] = set()
        self._scheduled: asyncio.Handle | None = None
        self._begun = False
        self._emptied = asyncio.Event()
        self._changes = random.getrandbits(32)
        self._change: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.applications = Applications(self._services, http.request_timeout_s if http is not None else None)
        self.builds = Builds(self._services, self.applications)
        self._loops = 0
        self.metrics = ControllerMetrics(
            session_dir,
            secret,
            self.config.metrics_prefix,
            managers=lambda: list(self.applications.managers),
            statuses=self.application_statuses,
            counts=self._services.counts,
            loops=lambda: self._loops,
            nodes=engine.nodes,
        )

        self.sampler = Sampler(secret, lambda: list(self.applications.managers), engine.list)

    def _unknown(self, key: str) -> RoutingTable | DeploymentTargets:
        return RoutingTable() if key == ROUTES else self.applications.no_such_deployment(key)

    async def start(self) -> None:
        """Find the replicas that run already, and begin."""
        self._tasks |= {self._loop.create_task(each) for each in (self._follow_exits(), self._follow_machines())}
        for info in await self.engine.list():
            self._short_ids.note(info.name)
        await adopt_all(self.applications, self.engine, self._services.secret)
        await self.policies.begin()
        self._begun = True
        self.hub.open()
        for manager in self.applications.managers:
            self.mark(manager)
        self.builds.resume()

    async def close(self) -> None:
        """Stop controlling; replicas go on without."""
        if self._scheduled is not None:
            self._scheduled.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.builds.close()
        self.policies.close()
        self.sampler.close()
        for manager in self.applications.managers:
            manager.close()

    # The loop.

    def mark(self, manager: object) -> None:
        """Have a deployment looked at, soon and once, however many reasons there are."""
        assert isinstance(manager, DeploymentManager)
        self._dirty[manager] = None
        if self._begun and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._reconcile)

    def _reconcile(self) -> None:
        self._scheduled = None
        self._loops += 1
        dirty, self._dirty = self._dirty, {}
        for manager in dirty:
            try:
                manager.reconcile()
                self._note_waiting(manager)
            except Exception:
                # A mistake of ours in one deployment must not stop the others.
                logger.exception("deployment %s: internal error; looked at again soon", manager.key)
                self._loop.call_later(RETRY_AFTER_ERROR_S, self.mark, manager)
        self.applications.progress({manager.app for manager in dirty})
        if not self.applications.by_name:
            self._emptied.set()
        self._note_change()

    def _note_change(self) -> None:
        self._changes += 1
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    async def changed(self, since: int) -> int:
        """Wait until something may have changed since an earlier call returned `since`."""
        while since == self._changes:
            if self._change is None:
                self._change = self._loop.create_future()
            await asyncio.shield(self._change)
        return self._changes

    def _note_waiting(self, manager: DeploymentManager) -> None:
        if manager.waiting and not manager.deleting:
            self._waiting.add(manager)
        else:
            self._waiting.discard(manager)

    def _room_made(self) -> None:
        for manager in self._waiting:
            self.mark(manager)

    def _anyone_leaving(self) -> bool:
        return any(not r.replica.active for m in self.applications.managers for r in m.runners.values())

    async def _follow_exits(self) -> None:
        with contextlib.suppress(ConnectionError):  # the engine is gone, and with it everything that it started
            async for exited in self.engine.exits(0):
                self._short_ids.free(exited.name)
                replica_id = exited.name.removeprefix(PROCESS_PREFIX)
                manager = self._manager_of(replica_id)
                runner = manager.runners.get(replica_id) if manager is not None else None
                if runner is not None:
                    runner.feed(rm.ProcessExited(describe_exit(exited)))
                else:
                    self.builds.exited(exited)
                    self.policies.exited(exited)

    async def _follow_machines(self) -> None:
        with contextlib.suppress(ConnectionError):
            leaving: frozenset[str] = frozenset()
            while True:
                leaving = await self.engine.leaving(leaving)
                self._services.leaving.clear()
                self._services.leaving.update(leaving)
                for manager in self.applications.managers:
                    self.mark(manager)

    def _manager_of(self, replica_id: str) -> DeploymentManager | None:
        app, _, rest = replica_id.partition("#")
        return self.applications.manager(app, rest.partition("#")[0])

    # What clients ask for.

    def deploy(self, specs: list[ApplicationSpec], replace_all: bool = False) -> list[str]:
        """Want these applications; see `Applications.deploy`."""
        for spec in specs:
            self.builds.forget(spec.name)
        return self.applications.deploy(specs, declared=replace_all, replace_all=replace_all)

    def delete(self, names: list[str]) -> None:
        """Drain and remove these applications; see `Applications.delete`."""
        self.applications.delete([name for name in names if not self.builds.forget(name)])

    def history(self, name: str) -> ApplicationHistory:
        """What has been deployed as an application; see `Applications.history`."""
        return self.applications.history(name, self.builds.state(name) is not None)

    def rollback(self, name: str, to: int | None = None) -> RollbackReply:
        """Return to an earlier deploy; see `Applications.rollback`. A config that waits to be built is dropped."""
        reply = self.applications.rollback(name, to, self.builds.state(name) is not None)
        self.builds.forget(name)
        return reply

    def report_models(self, replica_id: str, model_ids: list[str]) -> None:
        manager = self._manager_of(replica_id)
        if manager is not None:
            manager.report_models(replica_id, model_ids)

    def report_stats(self, replica_id: str, stats: dict[str, float]) -> None:
        """A replica tells what its `record_autoscaling_stats` returned."""
        manager = self._manager_of(replica_id)
        if manager is not None:
            manager.report_stats(replica_id, stats)

    def report_load(self, caller: str, loads: dict[str, Load], latencies: dict[str, dict[int, int]]) -> None:
        """A process tells what it has under way, and how long what was answered took, by deployment; what is deployed
        no more is passed over."""
        for key, load in loads.items():
            app, _, deployment = key.partition("#")
            manager = self.applications.manager(app, deployment)
            if manager is not None:
                manager.report_load(caller, load, latencies.get(key))

    def _caller_gone(self, caller: str) -> None:
        for manager in self.applications.managers:
            manager.forget_caller(caller)

    def application_statuses(self, names: list[str] | None = None) -> list[ApplicationStatus]:
        """Of all applications, or of those among `names` that there are."""
        if names is None:
            known = self.applications.by_name.items()
        else:
            known = {n: a for n in names if (a := self.applications.by_name.get(n)) is not None}.items()
        building = (status for status in self.builds.statuses() if names is None or status.name in names)
        return [*(a.status(self.builds.state(name)) for name, a in known), *building]

    async def status(self, names: list[str] | None = None) -> InstanceStatus:
        """Of the instance, with all applications or only these."""
        processes, nodes = await self.engine.list(), await self.engine.nodes()
        http = next((node.http for node in nodes if node.alive and node.http is not None), None)
        rest, root_pid, own_node = None, os.getppid(), ""
        with contextlib.suppress(NotRunningError):
            session = Session.load(self.session_dir)
            http = session.http or http
            rest, root_pid, own_node = session.rest, session.root_pid, session.node
        rest_host, rest_port = rest or (self.config.rest.host, self.config.rest.port)
        return InstanceStatus(
            version=VERSION,
            session=str(self.session_dir),
            root_pid=root_pid,
            controller_pid=os.getpid(),
            http_host=http[0] if http is not None else None,
            http_port=http[1] if http is not None else None,
            rest_host=rest_host,
            rest_port=rest_port,
            proxies=proxy_statuses(processes, nodes, self.config.http.num_proxies if self.config.http else 0),
            applications=self.application_statuses(names),
            target_capacity=self._services.store.capacity.percent,
            nodes=node_statuses(nodes),
            controller_node=own_node,
        )

    async def shutdown(self) -> None:
        """Drain everything, then end every process of the instance."""
        self.builds.close()
        longest = max((m.options.graceful_shutdown_timeout_s for m in self.applications.managers), default=0.0)
        # Before the routes go: what has been accepted is still served, and what comes is refused, not told of no route.
        await self.engine.stop_proxies(longest)
        self.applications.delete(list(self.applications.by_name))
        if self.applications.by_name:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), longest + SHUTDOWN_SLACK_S)
        await self.engine.shutdown()
