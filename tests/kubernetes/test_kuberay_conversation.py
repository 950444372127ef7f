"""KubeRay's RayService controller drives real heads: what it sends, what it reads, and what it makes of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from .heads import TOKEN, Head, RayHead, short_folder, until
from .kuberay_controller import Cluster, RayServiceController, Spec, Upgrade


def config(price: int = 1, replicas: int = 1, import_path: str = "fruit:stand", **app: Any) -> str:
    """A `serveConfigV2`."""
    small = {"num_cpus": 0.1}
    stand = {"name": "Stand", "num_replicas": replicas, "user_config": {"price": price}, "ray_actor_options": small}
    deployments = [stand] if import_path == "fruit:stand" else []
    return yaml.safe_dump(
        {"applications": [{"name": "fruit", "import_path": import_path, "deployments": deployments, **app}]}
    )


class Kubernetes:
    """Makes a head for each cluster that the controller wants, and takes away those that it does not want any more."""

    def __init__(self, folder: Path, stack: ExitStack, start_head: Callable[[Path], Head]) -> None:
        self.folder = folder
        self._stack = stack
        self._start_head = start_head
        self.heads: dict[str, Head] = {}
        self.service: RayServiceController

    def operate(self, serve_config: str, **spec: Any) -> RayServiceController:
        """The controller of a new RayService."""
        self.service = RayServiceController(Spec(serve_config, **spec), self._create, self._delete, TOKEN)
        return self.service

    def _create(self, name: str) -> Cluster:
        head = self.heads[name] = self._stack.enter_context(self._start_head(self.folder / name))
        return head.as_cluster(name, self.service.spec.cluster)

    def _delete(self, cluster: Cluster) -> None:
        self.heads.pop(cluster.name).end()

    def until(self, wanted: Callable[[], Any], what: str) -> None:
        """Passes of the controller until something is so."""

        def passed() -> bool:
            self.service.reconcile()
            return bool(wanted())

        try:
            until(passed, what)
        except AssertionError as error:
            service = self.service
            raise AssertionError(f"{error}; {service.events[-3:]}, {service.active}, {service.pending}") from None

    def until_running(self) -> None:
        self.until(lambda: self.service.active.cluster and self.status() == "RUNNING", "the first deploy")

    def status(self) -> str | None:
        app = self.service.active.applications.get("fruit")
        return app.status if app is not None else None

    def price(self) -> int:
        """What a client of the Service gets."""
        assert self.service.services_select is not None
        return int(ask(self.heads[self.service.services_select].proxy_url)["price"])


def refusals(service: RayServiceController) -> list[str]:
    """Events that are not about a busy machine which took longer than the two seconds."""
    return [event for event in service.events if event.startswith("PUT: 400")]


def ask(url: str) -> Any:
    answer = httpx.get(f"{url}/", timeout=30.0, trust_env=False)
    answer.raise_for_status()
    return answer.json()


@pytest.fixture(params=["local", pytest.param("ray", marks=[pytest.mark.full, pytest.mark.timeout(300)])])
def kubernetes(request: pytest.FixtureRequest) -> Iterator[Kubernetes]:
    """With heads on either engine."""
    if request.param == "ray":
        pytest.importorskip("ray")
    folder = short_folder()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Kubernetes(folder, stack, Head if request.param == "local" else RayHead)


def test_a_new_service_gets_a_cluster_its_config_and_then_its_requests(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=7))
    service.reconcile()
    assert (service.pending.cluster, service.clusters) == ("cluster-1", {})
    service.reconcile()  # The cluster is made; nothing is deployed on it, so that the config is sent.
    assert service.configs_sent == [("cluster-1", None)]
    assert service.services_select is None
    kubernetes.until_running()
    assert (service.active.cluster, service.pending.cluster) == ("cluster-1", "")
    assert service.active.applications["fruit"].deployments["Stand"].status == "HEALTHY"
    assert service.head_serves == {"cluster-1": True}
    assert kubernetes.price() == 7
    # An application is told of from the moment on when it was sent, or else it would be sent time and again.
    assert (service.configs_sent, refusals(service)) == ([("cluster-1", None)], [])


def test_a_changed_config_is_an_update_in_place(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=1))
    kubernetes.until_running()
    url = kubernetes.heads["cluster-1"].proxy_url
    pid = ask(url)["pid"]
    service.spec.serve_config = config(price=2, replicas=2)
    kubernetes.until(lambda: ask(url)["price"] == 2, "the new price")
    kubernetes.until(lambda: kubernetes.status() == "RUNNING", "the end of the update")
    assert len(service.configs_sent) == 2
    assert (service.active.cluster, service.pending.cluster) == ("cluster-1", "")
    until(lambda: ask(url)["pid"] == pid, "the replica that ran before")


def test_a_config_that_is_refused_is_an_event_and_the_old_one_stays(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=3))
    kubernetes.until_running()
    service.spec.serve_config = config(price=4, route_prefix="no-slash")
    kubernetes.until(lambda: len(refusals(service)) == 2, "another try: what failed may mend itself")
    assert "applications[0].route_prefix" in refusals(service)[0]
    assert len(service.configs_sent) == 1
    assert kubernetes.price() == 3
    service.spec.serve_config = config(price=5)
    kubernetes.until(lambda: kubernetes.price() == 5, "the mended config")


@pytest.mark.parametrize(
    ("import_path", "says"),
    [("vegetables:app", "no module 'vegetables'"), ("fruit:unripe", "no fruit in the store")],
)
def test_an_application_that_cannot_start_is_told_of_and_gets_no_requests(
    kubernetes: Kubernetes, import_path: str, says: str
) -> None:
    service = kubernetes.operate(config(import_path=import_path))
    kubernetes.until(
        lambda: (app := service.pending.applications.get("fruit")) is not None and app.status == "DEPLOY_FAILED",
        "the failure",
    )
    assert says in service.pending.applications["fruit"].message
    assert (service.active.cluster, service.services_select) == ("", None)
    assert service.configs_sent == [("cluster-1", None)]
    service.spec.serve_config = config(price=6)
    kubernetes.until_running()
    assert kubernetes.price() == 6


def test_an_update_that_cannot_start_leaves_the_requests_with_the_old_replicas(kubernetes: Kubernetes) -> None:
    kubernetes.operate(config(price=3))
    kubernetes.until_running()
    kubernetes.service.spec.serve_config = config(import_path="fruit:unripe")
    kubernetes.until(lambda: kubernetes.status() == "DEPLOY_FAILED", "the failure")
    assert kubernetes.price() == 3


def test_an_unhealthy_application_is_told_of_until_it_has_recovered(kubernetes: Kubernetes) -> None:
    sick = kubernetes.folder / "sick"
    service = kubernetes.operate(config(args={"sick": str(sick)}))
    kubernetes.until_running()
    sick.touch()
    kubernetes.until(lambda: kubernetes.status() == "UNHEALTHY", "the illness")
    assert service.active.applications["fruit"].deployments["Stand"].status == "UNHEALTHY"
    sick.unlink()
    kubernetes.until_running()
    assert len(service.configs_sent) == 1


def test_another_cluster_takes_over_when_it_is_ready_and_no_request_is_lost(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=1))
    kubernetes.until_running()
    failures: list[BaseException] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            try:
                kubernetes.price()
            except BaseException as error:
                failures.append(error)

    caller = threading.Thread(target=client)
    caller.start()
    try:
        service.spec.cluster, service.spec.serve_config = "second", config(price=2)
        service.reconcile()
        assert (service.active.cluster, service.pending.cluster, service.services_select) == (
            "cluster-1",
            "cluster-2",
            "cluster-1",
        )
        service.reconcile()
        assert service.configs_sent[1:] == [("cluster-2", None)]  # Nothing is changed on the old one.
        kubernetes.until(lambda: service.services_select == "cluster-2", "the switch")
        assert kubernetes.price() == 2
    finally:
        done.set()
        caller.join()
    assert failures == []
    assert (service.active.cluster, service.pending.cluster) == ("cluster-2", "")
    service.reconcile()
    assert list(kubernetes.heads) == ["cluster-2"]


def test_a_cluster_that_does_not_get_ready_never_takes_over(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=1))
    kubernetes.until_running()
    service.spec.cluster, service.spec.serve_config = "second", config(import_path="fruit:unripe")
    kubernetes.until(
        lambda: (app := service.pending.applications.get("fruit")) is not None and app.status == "DEPLOY_FAILED",
        "the failure",
    )
    assert service.services_select == "cluster-1"
    assert kubernetes.price() == 1


def test_a_head_that_lost_everything_gets_its_config_again(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=8))
    kubernetes.until_running()
    head = kubernetes.heads["cluster-1"]
    head.kill()
    service.reconcile()
    assert service.head_serves == {"cluster-1": False}  # The Service sends requests to other pods meanwhile.
    head.begin()
    kubernetes.until_running()
    assert [name for name, _ in service.configs_sent] == ["cluster-1", "cluster-1"]
    assert (kubernetes.price(), service.head_serves) == (8, {"cluster-1": True})


def test_capacity_and_requests_move_to_the_new_cluster_step_by_step(kubernetes: Kubernetes) -> None:
    service = kubernetes.operate(config(price=1, replicas=2), upgrade=Upgrade(25, 0.01, 50))
    kubernetes.until_running()
    assert (service.configs_sent, service.active.target_capacity) == ([("cluster-1", 100)], 100)
    assert running(kubernetes, "cluster-1") == 2
    service.spec.cluster, service.spec.serve_config = "second", config(price=2, replicas=2)
    shares: list[int] = []
    capacities: list[tuple[int | None, int | None]] = []

    def finished() -> bool:
        if (share := service.weights.get("cluster-2", 0)) not in shares:
            shares.append(share)
        if service.upgrading and (now := (service.active.target_capacity, service.pending.target_capacity)):
            capacities.extend([now] if now not in capacities else [])
        return service.active.cluster == "cluster-2"

    kubernetes.until(finished, "the upgrade")
    assert shares == [0, 25, 50, 75, 100]
    # Beyond what one cluster has there is never more than the surge.
    assert capacities == [(100, 0), (100, 50), (50, 50), (50, 100)]
    assert service.configs_sent[1:] == [
        ("cluster-2", 0),
        ("cluster-2", 50),
        ("cluster-1", 50),
        ("cluster-2", 100),
        ("cluster-1", 0),
    ]
    assert running(kubernetes, "cluster-2") == 2
    assert ask(kubernetes.heads["cluster-2"].proxy_url)["price"] == 2


def running(kubernetes: Kubernetes, cluster: str) -> int:
    """Replicas that the API tells of."""
    url = f"{kubernetes.heads[cluster].dashboard_url}/api/serve/applications/fruit"
    told = httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False).json()
    return sum(replica["state"] == "RUNNING" for replica in told["deployments"]["Stand"]["replicas"])
