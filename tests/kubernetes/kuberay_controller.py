"""KubeRay's RayService controller, pass for pass, for a test: what it asks of which head, in which order, and what it
concludes.

After `rayservice_controller.go` of KubeRay's operator, as it is after version 1.7; the names of its functions stand at
what follows them. Kubernetes is left out: clusters are made and removed by the test, their pods are ready at once, and
the Services and the HTTPRoute are what they point to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from .kuberay_client import AppStatus, DashboardClient, DashboardError, proxy_is_healthy


@dataclass
class Cluster:
    """A RayCluster. `spec`: what of the RayService's `rayClusterConfig` it was made with."""

    name: str
    spec: str
    dashboard_url: str
    proxy_url: str
    head_ready: bool = True


@dataclass
class Upgrade:
    """`clusterUpgradeOptions` of the strategy NewClusterWithIncrementalUpgrade."""

    step_size_percent: int
    interval_s: float
    max_surge_percent: int = 100


@dataclass
class Spec:
    """Of a RayService."""

    serve_config: str
    cluster: str = "first"
    upgrade: Upgrade | None = None


@dataclass
class ServiceStatus:
    """`activeServiceStatus` and `pendingServiceStatus`."""

    cluster: str = ""
    applications: dict[str, AppStatus] = field(default_factory=dict)
    target_capacity: int | None = None
    traffic_percent: int | None = None
    migrated_at: float | None = None


class RayServiceController:
    """One RayService, and what the operator remembers of it.

    Attributes:
        active, pending: the two halves of its status.
        services_select: the cluster that the Services for requests and for the dashboard send to.
        weights: of the HTTPRoute: percent of the requests by cluster.
        head_serves: the label `ray.io/serve` of the clusters' head pods.
        events: what `kubectl describe` would show.
        configs_sent: to which cluster a config was PUT, with its target_capacity.
    """

    def __init__(
        self,
        spec: Spec,
        create: Callable[[str], Cluster],
        delete: Callable[[Cluster], None],
        token: str | None = None,
    ) -> None:
        self.spec = spec
        self.active = ServiceStatus()
        self.pending = ServiceStatus()
        self.services_select: str | None = None
        self.weights: dict[str, int] = {}
        self.head_serves: dict[str, bool] = {}
        self.events: list[str] = []
        self.configs_sent: list[tuple[str, Any]] = []
        self.clusters: dict[str, Cluster] = {}
        self._create = create
        self._delete = delete
        self._token = token
        self._cached_configs: dict[str, str] = {}
        self._clusters_made = 0

    @property
    def upgrading(self) -> bool:
        """The condition UpgradeInProgress."""
        return bool(self.active.cluster and self.pending.cluster)

    def reconcile(self) -> None:
        """One pass, as it runs every two seconds. What fails is tried again by the next."""
        try:
            self._pass()
        except DashboardError as error:
            self.events.append(str(error))

    def _pass(self) -> None:
        self._clean_up()
        active, pending = self._find_clusters()
        for cluster in (active, pending):
            if cluster is not None:  # updateHeadPodServeLabel
                self.head_serves[cluster.name] = proxy_is_healthy(cluster.proxy_url)
        active_ready = pending_ready = False
        active_apps: dict[str, AppStatus] = {}
        pending_apps: dict[str, AppStatus] = {}
        if pending is not None:
            pending_ready, pending_apps = self._reconcile_serve(pending)
        alone = pending is None and not self._needs_new_cluster(active, None, serving=False)
        if active is not None and (alone or (pending is not None and self.spec.upgrade is not None)):
            active_ready, active_apps = self._reconcile_serve(active)
        if self.spec.upgrade is not None and active is not None:
            self._route(self.spec.upgrade, active, pending, pending_ready)
        if active_ready or pending_ready:
            target = active
            if pending_ready and not (self.spec.upgrade is not None and self.upgrading):
                target = pending
            assert target is not None
            self.services_select = target.name
        self.active.applications, self.pending.applications = active_apps, pending_apps
        self._calculate_status(active, pending, services_found=active_ready or pending_ready)

    # cleanUpServeConfigCache, cleanUpRayClusterInstance, reconcileRayCluster

    def _clean_up(self) -> None:
        """Whole clusters go, some time after nothing points to them any more; here at once."""
        kept = {self.active.cluster, self.pending.cluster}
        self._cached_configs = {name: text for name, text in self._cached_configs.items() if name in kept}
        for name in [name for name in self.clusters if name not in kept]:
            self._delete(self.clusters.pop(name))

    def _find_clusters(self) -> tuple[Cluster | None, Cluster | None]:
        wanted = self.pending.cluster
        if wanted and wanted not in self.clusters:
            self.clusters[wanted] = self._create(wanted)
        return self.clusters.get(self.active.cluster), self.clusters.get(wanted)

    def _needs_new_cluster(self, active: Cluster | None, pending: Cluster | None, *, serving: bool) -> bool:
        """shouldPrepareNewCluster. `serving`: the Services select the pending one."""
        if serving:
            return False
        cluster = pending or active
        return cluster is None or cluster.spec != self.spec.cluster

    # reconcileServe

    def _reconcile_serve(self, cluster: Cluster) -> tuple[bool, dict[str, AppStatus]]:
        if not cluster.head_ready:
            return False, {}
        client = DashboardClient(cluster.dashboard_url, self._token)
        try:
            applications = client.applications()
            ready = bool(applications) and all(app.status == "RUNNING" for app in applications.values())
            of_active = cluster.name == self.active.cluster
            incremental = self.spec.upgrade is not None and self.upgrading
            if self._must_submit(cluster, applications) and not (of_active and incremental):
                self._submit(client, cluster)
            if incremental and self._capacity_must_change():
                self._reconcile_capacity(client, cluster)
        finally:
            client.close()
        return ready, applications

    def _must_submit(self, cluster: Cluster, applications: dict[str, AppStatus]) -> bool:
        """checkIfNeedSubmitServeApplications: nothing was sent yet, or what was is lost or not what is wanted now."""
        cached = self._cached_configs.get(cluster.name)
        return cached is None or not applications or cached != self.spec.serve_config

    def _submit(self, client: DashboardClient, cluster: Cluster) -> None:
        """updateServeDeployment"""
        config = yaml.safe_load(self.spec.serve_config)
        if self.spec.upgrade is not None:
            of_it = self.active if cluster.name == self.active.cluster else self.pending
            if of_it.target_capacity is not None:
                config["target_capacity"] = of_it.target_capacity
        self._put(client, cluster, config)
        self._cached_configs[cluster.name] = self.spec.serve_config

    def _put(self, client: DashboardClient, cluster: Cluster, config: dict[str, Any]) -> None:
        client.update_deployments(config)
        self.configs_sent.append((cluster.name, config.get("target_capacity")))

    def _capacity_must_change(self) -> bool:
        """checkIfNeedTargetCapacityUpdate"""
        if not self.weights:
            return False
        return not (self.active.target_capacity == 0 and self.pending.target_capacity == 100)

    def _reconcile_capacity(self, client: DashboardClient, cluster: Cluster) -> None:
        """reconcileServeTargetCapacity: the new one grows first, then the old one shrinks, by turns."""
        assert self.spec.upgrade is not None
        surge = self.spec.upgrade.max_surge_percent
        if self.active.target_capacity is None:
            self.active.target_capacity = 100
        active = self.active.target_capacity
        pending = self.pending.target_capacity = self.pending.target_capacity or 0
        if pending != (self.pending.traffic_percent or 0):
            return  # requests have not followed yet
        if cluster.name == self.active.cluster and active + pending > 100:
            goal, of_it = max(0, active - surge), self.active
        elif cluster.name == self.pending.cluster and active + pending <= 100:
            goal, of_it = min(100, pending + surge), self.pending
        else:
            return
        config = yaml.safe_load(self._cached_configs.get(cluster.name) or self.spec.serve_config)
        self._put(client, cluster, {**config, "target_capacity": goal})
        of_it.target_capacity = goal

    # reconcileHTTPRoute, calculateTrafficRoutedPercent

    def _route(self, upgrade: Upgrade, active: Cluster, pending: Cluster | None, pending_ready: bool) -> None:
        of_active = 100 if self.active.traffic_percent is None else self.active.traffic_percent
        of_pending = self.pending.traffic_percent or 0
        capacity = self.pending.target_capacity or 0
        waited = self.pending.migrated_at is None or time.monotonic() - self.pending.migrated_at >= upgrade.interval_s
        if of_pending != capacity and waited and pending_ready:
            of_pending = min(100, of_pending + upgrade.step_size_percent, capacity)
            of_active = 100 - of_pending
        self.weights = {active.name: of_active, **({pending.name: of_pending} if pending is not None else {})}

    # calculateStatus, reconcilePromotionAndServingStatus

    def _calculate_status(self, active: Cluster | None, pending: Cluster | None, *, services_found: bool) -> None:
        serving = False
        if services_found:
            if self.spec.upgrade is not None:
                self._note_weights()
            serving = self.services_select == self.pending.cluster
            if self._must_promote():
                self.active, self.pending = self.pending, ServiceStatus()
        if self._needs_new_cluster(active, pending, serving=serving):
            self._clusters_made += 1
            self.pending = ServiceStatus(cluster=f"cluster-{self._clusters_made}")
            if self.spec.upgrade is not None:
                self.pending.target_capacity = 0 if self.active.cluster else 100

    def _note_weights(self) -> None:
        for half in (self.active, self.pending):
            weight = self.weights.get(half.cluster)
            if weight is not None and weight != half.traffic_percent:
                half.traffic_percent, half.migrated_at = weight, time.monotonic()

    def _must_promote(self) -> bool:
        if self.spec.upgrade is None:
            return self.active.cluster != self.services_select
        if self.upgrading:  # IsIncrementalUpgradeComplete
            return self.active.target_capacity == 0 and self.pending.traffic_percent == 100
        return not self.active.cluster and bool(self.pending.cluster)
