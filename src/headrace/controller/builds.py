"""Applications from configs: built in a process of their own each, since building runs user code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

from headrace.config.spec import ApplicationSpec, ApplicationStatus, BuildOutcome
from headrace.controller.applications import Applications
from headrace.controller.services import Services, describe_exit
from headrace.controller.status import application_status
from headrace.engine.process import ProcessExited, ProcessInfo, ProcessSpec
from headrace.engine.resources import Refusal, ResourceRequest
from headrace.exceptions import ApplicationBuildError, ConfigError, HeadraceError
from headrace.wire.errors import ConnectionLost, WireError
from headrace.wire.rpc import RpcClient

if TYPE_CHECKING:
    from headrace.config.schema import ServeApplicationSchema

logger = logging.getLogger("headrace.controller")


def _schema_of(config: dict[str, Any]) -> ServeApplicationSchema:
    # Imported when the first config comes: most instances never see one, and every instance wants to be ready soon.
    from headrace.config.schema import ServeApplicationSchema

    return ServeApplicationSchema(**config)


CONNECT_S = 30.0
"""It listens before it runs, but a busy machine may be long in coming to it."""

RETRY_S = 0.2


class _Build:
    """One application that is being built, or could not be. `error`: None while it is under way."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.asked_at = time.time()
        self.error: str | None = None


class Builds:
    """What configs want that is not deployed yet."""

    def __init__(self, services: Services, applications: Applications) -> None:
        self._services = services
        self._applications = applications
        self._builds: dict[str, _Build] = {}
        self._exits: dict[str, asyncio.Future[ProcessExited]] = {}
        self._task: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """Build again what an earlier controller had not finished."""
        configs = self._services.store.load_builds()
        if configs:
            self._begin(configs)

    def want(self, configs: list[dict[str, Any]], target_capacity: float | None = None) -> None:
        """Want exactly these applications among those that come from configs. They must be valid.

        Args:
            target_capacity: percentage of their replicas; None for all.

        Raises:
            ConfigError: a route is another application's. Nothing has changed then.
        """
        by_name = {_schema_of(config).name: config for config in configs}
        leaving = self._applications.undeclared(set(by_name))
        self._applications.check_routes(
            {name: _schema_of(config).route_prefix for name, config in by_name.items()}, leaving
        )
        before = self._services.store.capacity
        declared = {*self._applications.undeclared(set()), *self._builds}
        capacity = before.after(target_capacity, declared == by_name.keys())
        self._services.store.put_builds(by_name, capacity)
        if capacity != before:
            logger.info("target capacity: %s %%", "100" if capacity.percent is None else f"{capacity.percent:g}")
            for manager in self._applications.managers:
                manager.capacity_changed()
        self._applications.delete(leaving)
        self._begin(by_name)

    def _begin(self, configs: dict[str, dict[str, Any]]) -> None:
        if self._task is not None:
            self._task.cancel()
        self._builds = {name: _Build(config) for name, config in configs.items()}
        self._task = asyncio.get_running_loop().create_task(self._build_all())

    async def _build_all(self) -> None:
        builds = dict(self._builds)
        outcomes = await asyncio.gather(*(self._build(build) for build in builds.values()), return_exceptions=True)
        specs = []
        for (name, build), outcome in zip(builds.items(), outcomes, strict=True):
            if isinstance(outcome, ApplicationSpec):
                specs.append(outcome)
            else:
                self._fail(name, build, outcome)
        # Together, so that two applications can exchange their routes.
        specs = [spec for spec in specs if self._builds.get(spec.name) is builds[spec.name]]
        try:
            self._applications.deploy(specs, declared=True)
        except ConfigError as error:
            for spec in specs:
                self._fail(spec.name, builds[spec.name], error)
        else:
            for spec in specs:
                del self._builds[spec.name]

    def _fail(self, name: str, build: _Build, error: BaseException) -> None:
        build.error = str(error) if isinstance(error, HeadraceError) else f"internal error: {error!r}"
        logger.error("application '%s' could not be built: %s", name, build.error)
        if self._builds.get(name) is build:
            self._services.store.drop_build(name)

    async def _build(self, build: _Build) -> ApplicationSpec:
        schema, engine = _schema_of(build.config), self._services.engine
        short_id = self._services.short_ids.new()
        name = f"builder:{schema.name}#{short_id}"
        # It asks for no resources, and may ask for what there is not to run in.
        environment = schema.runtime_env.model_dump(mode="json", exclude_defaults=True)
        granted = engine.allocate(name, ResourceRequest(runtime_env=environment))
        if isinstance(granted, Refusal):
            raise ApplicationBuildError(granted.reason)
        process = ProcessSpec(
            name=name,
            role="builder",
            entry="headrace.build_process:main",
            args={"application": build.config},
            listen=f"{short_id}.sock",
            env=schema.runtime_env.env_vars,
        )
        exited = self._exits[name] = asyncio.get_running_loop().create_future()
        try:
            started = await engine.start(process)
            outcome = await self._outcome(started, exited)
        except BaseException:
            with contextlib.suppress(ConnectionError):
                await engine.kill(name, signal.SIGKILL)
            raise
        finally:
            del self._exits[name]
            engine.release(name)
        if isinstance(outcome, ProcessExited):
            how = describe_exit(outcome)
            raise ApplicationBuildError(f"the process that built application '{schema.name}' did not finish: {how}")
        if outcome.ok is None:
            raise ApplicationBuildError(outcome.error or "it failed without a reason")
        return outcome.ok

    async def _outcome(
        self, process: ProcessInfo, exited: asyncio.Future[ProcessExited]
    ) -> BuildOutcome | ProcessExited:
        """What was built, or how the process ended that was to build it."""
        asking = asyncio.get_running_loop().create_task(self._ask(process))
        try:
            await asyncio.wait((asking, exited), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
        if not asking.done():
            return exited.result()
        outcome, client = asking.result()
        try:
            await client.call("end", timeout_s=CONNECT_S)
        except (OSError, WireError):
            await self._services.engine.kill(process.name, signal.SIGKILL)
        finally:
            client.close()
        return outcome

    async def _ask(self, process: ProcessInfo) -> tuple[BuildOutcome, RpcClient]:
        """Ask until it answers: it may be asked any number of times, and its end is told by the engine."""
        while True:
            try:
                client = await RpcClient.connect(process.address, self._services.secret, CONNECT_S)
            except (OSError, WireError):
                await asyncio.sleep(RETRY_S)
                continue
            try:
                # No deadline: building imports the user's modules, which may take long.
                return await client.call("outcome", type=BuildOutcome), client
            except ConnectionLost:
                await asyncio.sleep(RETRY_S)
            except BaseException:
                client.close()
                raise

    def exited(self, exited: ProcessExited) -> None:
        """A process ended that is no replica."""
        future = self._exits.get(exited.name)
        if future is not None and not future.done():
            future.set_result(exited)

    def forget(self, name: str) -> bool:
        """Do not build this application any more. Returns whether there was nothing else of it."""
        known = self._builds.pop(name, None) is not None
        if known:
            self._services.store.drop_build(name)
        return known and name not in self._applications.by_name

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def state(self, name: str) -> str | None:
        """None if nothing is being built for the application; "" while it is; otherwise why it failed."""
        build = self._builds.get(name)
        return None if build is None else build.error or ""

    def statuses(self) -> list[ApplicationStatus]:
        """Of the applications of which there is nothing but a config yet."""
        return [
            self._status(name, build) for name, build in self._builds.items() if name not in self._applications.by_name
        ]

    def _status(self, name: str, build: _Build) -> ApplicationStatus:
        status, message = application_status([], deleting=False, build=build.error or "")
        return ApplicationStatus(
            name=name,
            status=status,
            message=message,
            route_prefix=build.config.get("route_prefix", "/"),
            ingress="",
            last_deployed_time_s=build.asked_at,
            deployments=[],
            config=build.config,
            declared=True,
        )
