"""The applications that are wanted: deploying, replacing and deleting them, and the routes that lead to them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from headrace.config.problems import nearest
from headrace.config.spec import (
    ApplicationHistory,
    ApplicationSpec,
    ApplicationStatus,
    DeploymentSpec,
    DeploymentTargets,
    RollbackReply,
    RouteEntry,
    RoutingTable,
)
from headrace.controller import deploys
from headrace.controller.deployment_manager import DeploymentManager
from headrace.controller.services import Services
from headrace.controller.spec_reading import keeps_target, options_of
from headrace.controller.status import application_status
from headrace.controller.store import StoredApplication, StoredVersion
from headrace.controller.watch import ROUTES
from headrace.exceptions import ConfigError

logger = logging.getLogger("headrace.controller")


class Application:
    """One application: its deployments, and those of an earlier version that still serve."""

    def __init__(self, stored: StoredApplication, versions: dict[tuple[str, str], StoredVersion], services: Services):
        self.spec = stored.spec
        self.deployed_at = stored.deployed_at
        self.declared = stored.declared
        self.deleting = stored.deleting
        self.managers = {
            spec.name: DeploymentManager(
                spec, stored.spec, versions.get((spec.app, spec.name), StoredVersion()), services
            )
            for spec in stored.spec.deployments
        }
        self.retiring: dict[str, DeploymentManager] = {}
        self._services = services
        self._route_to = self.spec.ingress
        self._deploy = services.store.last_deploy(self.spec.name)
        if self.deleting:
            self.delete()

    @property
    def all_managers(self) -> Iterator[DeploymentManager]:
        yield from self.managers.values()
        yield from self.retiring.values()

    def update(self, spec: ApplicationSpec, deployed_at: float, declared: bool) -> None:
        self.spec, self.deployed_at, self.declared, self.deleting = spec, deployed_at, declared, False
        known = {**self.retiring, **self.managers}
        self.managers = {}
        for deployment in spec.deployments:
            manager = known.pop(deployment.name, None)
            if manager is None:
                manager = DeploymentManager(deployment, spec, StoredVersion(), self._services)
                self._services.mark(manager)
            else:
                manager.update(deployment, spec)
            self.managers[deployment.name] = manager
        self.retiring = known
        self._deploy = self._services.store.last_deploy(spec.name)
        self.progress()

    def delete(self) -> None:
        self.deleting = True
        for manager in self.all_managers:
            manager.delete()

    def progress(self) -> None:
        """Let go of what an update has replaced, once what replaces it serves. Note what became of the update."""
        self._conclude_deploy()
        if not self.retiring and self._route_to == self.spec.ingress:
            return
        ready = all(m.ready for m in self.managers.values())
        served = self._route_to in self.managers or self._route_to in self.retiring
        if not served or self.managers[self.spec.ingress].ready:
            self._route_to = self.spec.ingress
        if ready:
            for manager in self.retiring.values():
                if not manager.deleting:
                    manager.delete()
        for name, manager in list(self.retiring.items()):
            if manager.gone:
                del self.retiring[name]
                self._services.store.remove_version(manager.app, name)
                if name not in self.managers:
                    self._services.hub.remove(manager.key)

    def _conclude_deploy(self) -> None:
        deploy = self._deploy
        if deploy is None or deploy.outcome != deploys.DEPLOYING or self.deleting:
            return
        if all(m.proven for m in self.managers.values()):
            outcome, message = deploys.SUCCEEDED, ""
        elif any(m.failed for m in self.managers.values()):
            outcome, message = deploys.FAILED, self.status(None).message
        else:
            return
        deploy.outcome, deploy.message = outcome, message
        self._services.store.conclude_deploy(self.spec.name, deploy.number, outcome, message)

    @property
    def route(self) -> RouteEntry | None:
        if self.spec.route_prefix is None or self.deleting:
            return None
        return RouteEntry(
            app=self.spec.name,
            route_prefix=self.spec.route_prefix,
            ingress=self._route_to,
            request_timeout_s=self.spec.request_timeout_s,
        )

    @property
    def gone(self) -> bool:
        return self.deleting and all(m.gone for m in self.all_managers)

    def status(self, build: str | None) -> ApplicationStatus:
        deployments = [m.status() for m in self.managers.values()]
        status, message = application_status(deployments, self.deleting, build)
        return ApplicationStatus(
            name=self.spec.name,
            status=status,
            message=message,
            route_prefix=self.spec.route_prefix,
            ingress=self.spec.ingress,
            last_deployed_time_s=self.deployed_at,
            deployments=deployments,
            config=self.spec.config,
            declared=self.declared,
            external_scaler_enabled=self.spec.external_scaler_enabled,
        )


class Applications:
    """All applications of the instance. Every change is in the store before anything is done about it."""

    def __init__(self, services: Services, request_timeout_s: float | None) -> None:
        self._services = services
        self._request_timeout_s = request_timeout_s
        versions = services.store.load_versions()
        self.by_name: dict[str, Application] = {}
        # Kept as they change: neither a deploy nor a route's change looks at all applications.
        self._routes: dict[str, RouteEntry] = {}
        self._owners: dict[str, str] = {}
        for name, stored in services.store.load().items():
            self.by_name[name] = Application(stored, versions, services)
            self._own_route(name)
        self.publish_routes(self.by_name)

    def deploy(
        self,
        specs: list[ApplicationSpec],
        declared: bool,
        replace_all: bool = False,
        restores: int | None = None,
    ) -> list[str]:
        """Want these applications, in place of what had their names.

        Args:
            declared: they come from a config; `replace_all` deletes those declared ones that are not among `specs`.
            restores: the earlier deploy that is brought back.

        Returns:
            The names.

        Raises:
            ConfigError: two applications want one route, or options are wrong. Nothing has changed then.
        """
        leaving = self.undeclared({spec.name for spec in specs}) if replace_all else []
        self._check(specs, leaving)
        now = time.time()
        self._services.store.put(specs, now, declared, restores, self._outdated_targets(specs))
        for spec in specs:
            self._disown_route(spec.name)
        for spec in specs:
            application = self.by_name.get(spec.name)
            if application is None:
                stored = StoredApplication(spec=spec, deployed_at=now, declared=declared, deleting=False)
                application = self.by_name[spec.name] = Application(stored, {}, self._services)
                for manager in application.all_managers:
                    self._services.mark(manager)
            else:
                application.update(spec, now, declared)
            self._own_route(spec.name)
        if leaving:
            self._delete(leaving)
        self.publish_routes([*leaving, *(spec.name for spec in specs)])
        return [spec.name for spec in specs]

    def _outdated_targets(self, specs: list[ApplicationSpec]) -> list[tuple[str, str]]:
        outdated = []
        for new in specs:
            application = self.by_name.get(new.name)
            old = {} if application is None else {manager.name: manager for manager in application.all_managers}
            for deployment in new.deployments:
                manager = old.get(deployment.name)
                if manager is not None and not keeps_target(manager.spec, manager.application, deployment, new):
                    outdated.append((new.name, deployment.name))
        return outdated

    def history(self, name: str, undo_build: bool) -> ApplicationHistory:
        """What has been deployed as an application; `undo_build` as for `rollback_target`.

        Raises:
            ConfigError: there is no such application.
        """
        self._existing([name])
        records = self._services.store.deploys(name)
        try:
            to = deploys.rollback_target(name, records, None, undo_build).number
        except ConfigError:
            to = None
        return ApplicationHistory(app=name, deploys=records, rollback_to=to)

    def rollback(self, name: str, to: int | None, undo_build: bool) -> RollbackReply:
        """Want again what an earlier deploy of the application wanted; `to` and `undo_build` as for `rollback_target`.

        Asking twice for the same number does it once.

        Raises:
            ConfigError: there is no such application, or nothing to return to, or its route is another's by now.
                Nothing has changed then.
        """
        self._existing([name])
        application = self.by_name[name]
        if application.deleting:
            raise ConfigError(f"application '{name}' is being deleted; deploy it again instead")
        target = deploys.rollback_target(name, self._services.store.deploys(name), to, undo_build)
        number = deploys.origin(target)
        self.deploy([self._services.store.deployed_spec(name, target.number)], target.declared, restores=number)
        current = self._services.store.last_deploy(name)
        assert current is not None
        logger.info("application '%s' is rolled back to its deploy %d", name, number)
        return RollbackReply(to=number, number=current.number)

    def undeclared(self, declared: set[str]) -> list[str]:
        """The applications that came from a config, and are not in the new one."""
        return [n for n, a in self.by_name.items() if a.declared and not a.deleting and n not in declared]

    def check_routes(self, wanted: dict[str, str | None], leaving: list[str]) -> None:
        """
        Args:
            wanted: route prefix by application, for those that are to be deployed.
            leaving: applications that will be deleted.

        Raises:
            ConfigError: two applications want one route.
        """
        taken: dict[str, str] = {}
        for name, route in wanted.items():
            if route is None:
                continue
            owner = taken.get(route) or self._owners.get(route, name)
            if route in taken or (owner not in wanted and owner not in leaving):
                raise ConfigError(
                    f"route_prefix: '{route}' of application '{name}' is the route of application '{owner}'; "
                    f"give one of them another route_prefix, or delete '{owner}' first"
                )
            taken[route] = name

    def _own_route(self, name: str) -> None:
        spec = self.by_name[name].spec
        if spec.route_prefix is not None and not self.by_name[name].deleting:
            self._owners[spec.route_prefix] = name

    def _disown_route(self, name: str) -> None:
        application = self.by_name.get(name)
        route = application.spec.route_prefix if application is not None else None
        if route is not None and self._owners.get(route) == name:
            del self._owners[route]

    def _check(self, specs: list[ApplicationSpec], leaving: list[str]) -> None:
        self.check_routes({spec.name: spec.route_prefix for spec in specs}, leaving)
        for spec in specs:
            names = [deployment.name for deployment in spec.deployments]
            if spec.ingress not in names:
                raise ConfigError(f"application '{spec.name}' has no deployment '{spec.ingress}' to be its ingress")
            for deployment in spec.deployments:
                _check_deployment(spec, deployment)

    def delete(self, names: list[str]) -> None:
        """Drain and remove these applications.

        Raises:
            ConfigError: there is no such application. Nothing has changed then.
        """
        self._existing(names)
        self._delete(names)
        self.publish_routes(names)

    def _delete(self, names: list[str]) -> None:
        self._services.store.mark_deleting(names)
        for name in names:
            self._disown_route(name)
            self.by_name[name].delete()

    def _existing(self, names: list[str]) -> None:
        for name in names:
            if name not in self.by_name:
                meant = nearest(name, self.by_name)
                hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(sorted(self.by_name)) or 'none'}"
                raise ConfigError(f"there is no application '{name}'; {hint}")

    def progress(self, names: set[str]) -> None:
        """Follow up on what replicas of these applications have done: retire what is replaced, forget what is gone."""
        known = names & self.by_name.keys()
        for name in known:
            application = self.by_name[name]
            application.progress()
            if application.gone:
                del self.by_name[name]
                self._services.store.remove(name)
                for manager in application.managers.values():
                    self._services.hub.remove(manager.key)
                logger.debug("application '%s' is deleted", name)
        self.publish_routes(known)

    def publish_routes(self, names: Iterable[str]) -> None:
        """Tell proxies of the routes of these applications, if they are news."""
        changed = not self._routes
        for name in names:
            application = self.by_name.get(name)
            route = application.route if application is not None else None
            if route is not None and route.request_timeout_s is None:
                route.request_timeout_s = self._request_timeout_s
            if route != self._routes.get(name):
                changed = True
                if route is None:
                    del self._routes[name]
                else:
                    self._routes[name] = route
        if changed:
            self._services.hub.set(ROUTES, RoutingTable(routes=list(self._routes.values())))

    @property
    def managers(self) -> Iterator[DeploymentManager]:
        for application in self.by_name.values():
            yield from application.all_managers

    def manager(self, app: str, deployment: str) -> DeploymentManager | None:
        application = self.by_name.get(app)
        if application is None:
            return None
        return application.managers.get(deployment) or application.retiring.get(deployment)

    def no_such_deployment(self, key: str) -> DeploymentTargets:
        """What routers are told of a deployment that nobody has deployed, with the nearest name there is."""
        app, _, deployment = key.partition("#")
        application = self.by_name.get(app)
        if application is None:
            meant = nearest(app, self.by_name)
            where = f"there is no application '{app}'"
            names = sorted(self.by_name)
        else:
            meant = nearest(deployment, application.managers)
            where = f"there is no deployment '{deployment}' in application '{app}'"
            names = sorted(application.managers)
        hint = f"did you mean '{meant}'?" if meant else f"there are {', '.join(names) or 'none'}"
        return DeploymentTargets(app=app, deployment=deployment, unavailable=f"{where}; {hint}")


def _check_deployment(application: ApplicationSpec, deployment: DeploymentSpec) -> None:
    try:
        options = options_of(deployment)
    except ConfigError as error:
        raise ConfigError(f"application '{application.name}': {error}") from error
    if application.external_scaler_enabled and options.autoscaling_config is not None:
        raise ConfigError(
            f"application '{application.name}': external_scaler_enabled: excludes the autoscaling_config of deployment "
            f"'{deployment.name}'; remove one of them"
        )
