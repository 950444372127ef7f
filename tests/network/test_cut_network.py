"""A network that fails between two machines, under load: nothing hangs, requests go where they can be answered, and all
heals when it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from headrace.config.deployment_options import DeploymentOptions
from headrace.config.spec import (
    DeploymentSpec,
    DeploymentTargets,
    InitializeReply,
    ReplicaSpec,
    ReplicaTarget,
    RoutingTable,
)
from headrace.engine.listeners import listen_unix
from headrace.exceptions import ReplicaUnavailableError, RequestTimeoutError
from headrace.handle import DeploymentHandle
from headrace.router.hub import RouterHub, set_hub
from headrace.router.link import ReplicaLink
from headrace.router.router import Router
from headrace.wire.address import gate_address
from headrace.wire.connection import SharedMemory
from headrace.wire.errors import ConnectionLost
from headrace.wire.relay import relay
from headrace.wire.rpc import RpcClient
from headrace.wire.shm import shared_folder

from .machines import HERE_IP, THERE_IP, Cable, here, there
from .process import SECRET

pytestmark = [pytest.mark.full, pytest.mark.timeout(180)]

GATE = 7000
PORT = 7001


async def until(condition: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes have no event to offer
            await asyncio.sleep(0.02)


class Model:
    """Notes in a file which requests it has run."""

    def __init__(self, log: str) -> None:
        self.log = log

    async def run(self, number: int, seconds: float, payload: Any = None) -> tuple[str, int]:
        with open(self.log, "a") as file:  # noqa: ASYNC230
            file.write(f"{number}\n")
        await asyncio.sleep(seconds)
        return self.log, number


class Cluster:
    """A replica on each of the two machines, and a caller on the first, with its router."""

    def __init__(self, folders: tuple[Path, Path], hub: RouterHub) -> None:
        self.here, self.there = folders
        self.hub = hub
        self.handle: DeploymentHandle[Any] = DeploymentHandle("Model", "app")

    @property
    def router(self) -> Router:
        return self.hub.router("app", "Model")

    @property
    def far(self) -> ReplicaLink:
        return self.router._links["far"]

    def runs(self, folder: Path) -> Counter[int]:
        log = folder / "runs"
        return Counter(int(line) for line in log.read_text().split()) if log.exists() else Counter()

    async def initialize(self, name: str, folder: Path, address: str) -> None:
        client = await RpcClient.connect(address, SECRET)
        options = DeploymentOptions(name="Model", max_ongoing_requests=8).model_dump(mode="json")
        code = cloudpickle.dumps((Model, (str(folder / "runs"),), {}))
        deployment = DeploymentSpec(app="app", name="Model", options=options, code=code, version="1")
        spec = ReplicaSpec(replica_id=name, deployment=deployment, route_prefix=None)
        await client.call("initialize", spec, type=InitializeReply, timeout_s=60)
        client.close()

    def targets(self, *names: str) -> None:
        known = {
            "near": ReplicaTarget(
                replica_id="near",
                address=f"{HERE_IP}:{PORT}",
                socket=str(self.here / "near.sock"),
                node="a",
                max_ongoing_requests=8,
            ),
            "far": ReplicaTarget(
                replica_id="far",
                address=f"{THERE_IP}:{PORT}",
                socket=str(self.there / "far.sock"),
                node="b",
                max_ongoing_requests=8,
            ),
        }
        self.router.update(DeploymentTargets(app="app", deployment="Model", replicas=[known[name] for name in names]))


@pytest.fixture
async def cluster(cable: Cable, session_folders: tuple[Path, Path]) -> AsyncIterator[Cluster]:
    first, second = session_folders
    for folder, node in ((first, "a"), (second, "b")):
        (folder / "session.json").write_text(f'{{"node": "{node}", "zone": ""}}')
    with contextlib.ExitStack() as stack:
        stack.enter_context(there("gate", str(second), THERE_IP, str(GATE)))
        stack.enter_context(there("replica", str(second), "far", THERE_IP, str(PORT)))
        stack.enter_context(here("replica", str(first), "near", HERE_IP, str(PORT)))
        memory = shared_folder(first.name)
        hub = RouterHub(str(first / "controller.sock"), SECRET, SharedMemory(memory) if memory else None)
        set_hub(hub)
        made = Cluster(session_folders, hub)
        try:
            await made.initialize("near", first, str(first / "near.sock"))
            await made.initialize("far", second, gate_address(THERE_IP, GATE, "far.sock"))
            yield made
        finally:
            cable.mend()
            set_hub(None)
            await hub.close()


class Load:
    """Keeps `width` requests under way, each with a deadline, and notes how each ended and when."""

    def __init__(self, cluster: Cluster, width: int = 12, deadline_s: float = 4.0) -> None:
        self.cluster = cluster
        self.deadline_s = deadline_s
        self.results: list[tuple[float, float, Any]] = []
        self.submitted = 0
        self.stopping = False
        self.tasks = [asyncio.create_task(self._go()) for _ in range(width)]

    async def _go(self) -> None:
        handle = self.cluster.handle.options(method_name="run", timeout_s=self.deadline_s)
        while not self.stopping:
            self.submitted += 1
            began = time.monotonic()
            try:
                outcome: Any = (await handle.remote(self.submitted, 0.05))[0]
            except Exception as error:
                outcome = error
                await asyncio.sleep(0.01)
            self.results.append((began, time.monotonic(), outcome))

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self.stopping = True
        async with asyncio.timeout(self.deadline_s + 10):
            await asyncio.gather(*self.tasks)

    def begun_after(self, moment: float) -> list[Any]:
        return [outcome for began, _, outcome in self.results if began > moment]


async def test_the_network_is_cut_under_load_and_comes_back(cable: Cable, cluster: Cluster) -> None:
    cluster.targets("near", "far")
    await until(lambda: cluster.router.ready_replicas == 2)
    async with Load(cluster) as load:
        await _cut_and_mend(cable, cluster, load)
        await load.stop()
    runs = cluster.runs(cluster.here) + cluster.runs(cluster.there)
    assert max(runs.values()) == 1 and len(runs) <= load.submitted


async def _cut_and_mend(cable: Cable, cluster: Cluster, load: Load) -> None:
    await until(lambda: len(load.results) > 200)
    far_log, near_log = str(cluster.there / "runs"), str(cluster.here / "runs")
    assert {outcome for _, _, outcome in load.results} == {far_log, near_log}

    cable.cut()
    cut_at = time.monotonic()
    await until(lambda: cluster.far.stalled, 5)
    routed_around_at = time.monotonic()
    assert routed_around_at - cut_at < 3
    await until(lambda: cluster.router.ready_replicas == 1, 20)  # nothing sent was acknowledged
    given_up_at = time.monotonic()
    await asyncio.sleep(1)
    # Those of after the cut were answered, all of them, by the replica that can be reached.
    after = load.begun_after(routed_around_at)
    assert len(after) > 50 and set(after) == {near_log}
    # Those that were there, or on their way, have failed, and by their deadlines.
    failed = [(ended - began, error) for began, ended, error in load.results if isinstance(error, Exception)]
    assert 1 <= len(failed) <= 8
    for seconds, error in failed:
        assert isinstance(error, RequestTimeoutError | ReplicaUnavailableError)
        assert seconds < load.deadline_s + 1

    cable.mend()
    mended_at = time.monotonic()
    await until(lambda: cluster.router.ready_replicas == 2, 20)
    joined_at = time.monotonic()
    await until(lambda: far_log in load.begun_after(joined_at), 10)
    assert all(isinstance(outcome, str) for outcome in load.begun_after(joined_at))
    print(
        f"routed around after {routed_around_at - cut_at:.2f} s, given up after {given_up_at - cut_at:.1f} s, "
        f"back {joined_at - mended_at:.1f} s after the network; {len(failed)} of {load.submitted} failed"
    )


async def test_a_short_interruption_fails_nothing(cable: Cable, cluster: Cluster) -> None:
    cluster.targets("far")
    await until(lambda: cluster.router.ready_replicas == 1)
    connection = cluster.far.connection
    handle = cluster.handle.options(method_name="run")
    calls = [handle.remote(number, 0.2) for number in range(8)]
    await asyncio.sleep(0.1)
    cable.cut()
    later = [handle.remote(number, 0.2) for number in range(8, 20)]
    await asyncio.sleep(3)
    cable.mend()
    async with asyncio.timeout(30):
        answers = [(await call)[1] for call in (*calls, *later)]
    assert answers == list(range(20))
    assert cluster.far.connection is connection
    runs = cluster.runs(cluster.there)
    assert len(runs) == 20 and set(runs.values()) == {1}


async def test_retryable_requests_are_answered_elsewhere(cable: Cable, cluster: Cluster) -> None:
    cluster.targets("far")
    await until(lambda: cluster.router.ready_replicas == 1)
    handle = cluster.handle.options(method_name="run", retryable=True)
    calls = [handle.remote(number, 60.0 if number < 4 else 0.0) for number in range(4)]
    await until(lambda: len(cluster.runs(cluster.there)) == 4)
    cable.cut()
    cluster.targets("near", "far")
    cut_at = time.monotonic()
    await until(lambda: len(cluster.runs(cluster.here)) == 4, 20)
    print(f"sent again after {time.monotonic() - cut_at:.1f} s")
    for call in calls:
        call.cancel()


async def test_a_replica_lets_go_of_requests_whose_machine_has_vanished(cable: Cable, cluster: Cluster) -> None:
    cluster.targets("far")
    await until(lambda: cluster.router.ready_replicas == 1)
    handle = cluster.handle.options(method_name="run")
    calls = [handle.remote(number, 600.0) for number in range(8)]
    await until(lambda: len(cluster.runs(cluster.there)) == 8)
    # Its Unix socket is reached past the cable, as by a process of its own machine.
    local = await RpcClient.connect(str(cluster.there / "far.sock"), SECRET)

    async def ongoing() -> int:
        return int((await local.call("state", timeout_s=5))["ongoing"])

    assert await ongoing() == 8
    cable.cut()
    cut_at = time.monotonic()
    async with asyncio.timeout(30):
        while await ongoing():  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.1)
    print(f"let go after {time.monotonic() - cut_at:.1f} s")
    local.close()
    for call in calls:
        call.cancel()


async def test_a_large_argument_under_way_ends_with_its_deadline(cable: Cable, cluster: Cluster) -> None:
    cluster.targets("far")
    await until(lambda: cluster.router.ready_replicas == 1)
    handle = cluster.handle.options(method_name="run", timeout_s=3)
    large = handle.remote(1, 0.0, bytearray(500_000_000))
    cable.cut()
    with pytest.raises((RequestTimeoutError, ReplicaUnavailableError)):
        async with asyncio.timeout(20):
            await large
    cable.mend()
    async with asyncio.timeout(30):
        assert (await cluster.handle.options(method_name="run").remote(2, 0.0, bytearray(5_000_000)))[1] == 2
    assert 1 not in cluster.runs(cluster.there)


async def test_a_watch_of_a_controller_elsewhere_begins_again(cable: Cable, session_folders: tuple[Path, Path]) -> None:
    first, second = session_folders
    tables: list[RoutingTable] = []
    with there("controller", str(second)), there("gate", str(second), THERE_IP, str(GATE)):
        handing_on = await relay(
            listen_unix(first / "controller.sock"), SECRET, lambda: gate_address(THERE_IP, GATE, "controller.sock")
        )
        hub = RouterHub(str(first / "controller.sock"), SECRET, None, on_routes=tables.append)
        await until(lambda: len(tables) == 1)
        cable.cut()
        cut_at = time.monotonic()
        await until(lambda: hub.client is None)
        lost_after_s = time.monotonic() - cut_at
        await asyncio.sleep(2)
        assert len(handing_on.connections) <= 1
        cable.mend()
        mended_at = time.monotonic()
        await until(lambda: len(tables) == 2)
        print(f"lost after {lost_after_s:.1f} s, back after {time.monotonic() - mended_at:.1f} s")
        await hub.close()
        handing_on.close()


async def test_control_connections_through_a_gate_are_given_up_and_made_again(cable: Cable, cluster: Cluster) -> None:
    address = gate_address(THERE_IP, GATE, "far.sock")
    idle, busy = await RpcClient.connect(address, SECRET), await RpcClient.connect(address, SECRET)
    lost: dict[str, float] = {}
    idle.on_lost = lambda: lost.update(idle=time.monotonic())
    busy.on_lost = lambda: lost.update(busy=time.monotonic())
    cable.cut()
    cut_at = time.monotonic()
    with pytest.raises(ConnectionLost):
        async with asyncio.timeout(30):
            await busy.call("state")
    with pytest.raises((OSError, TimeoutError)):
        await RpcClient.connect(address, SECRET, timeout_s=1)
    await until(lambda: "idle" in lost, 30)
    print(f"idle: {lost['idle'] - cut_at:.1f} s, busy: {lost['busy'] - cut_at:.1f} s")
    cable.mend()
    again = await RpcClient.connect(address, SECRET, timeout_s=20)
    assert (await again.call("state", timeout_s=10))["phase"] == "running"
    again.close()
