"""The controller is killed at every write of a change, before and after each statement. What was asked for comes true
all the same, requests are answered all the time, and nothing else restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.build import build_application
from headrace.config.http_options import HTTPOptions, RestOptions
from headrace.config.instance import InstanceConfig
from headrace.config.spec import (
    ApplicationHistory,
    ApplicationSpec,
    ApplicationStatus,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    HistoryRequest,
    InstanceStatus,
    RollbackReply,
    RollbackRequest,
)
from headrace.engine.launch import launch
from headrace.engine.root_config import RootConfig
from headrace.engine.session import Session
from headrace.wire.errors import WireError
from headrace.wire.rpc import RpcClient

from . import served
from .dying_controller import DIE_AT

pytestmark = pytest.mark.full

POINTS_PER_INSTANCE = 4
"""A controller that keeps dying young is restarted later each time; a fresh instance begins at once."""

DEADLINE_S = 20.0


class Dying:
    """An instance whose controller can be told when to die, with a client that asks again after each death."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{(session.http or ('', 0))[1]}", timeout=20)
        self.rest = httpx.AsyncClient(base_url=f"http://127.0.0.1:{session.rest[1]}", timeout=20)

    def die_at(self, point: int) -> None:
        (self.session.dir / DIE_AT).write_text(str(point))

    @property
    def died(self) -> bool:
        return not (self.session.dir / DIE_AT).exists()

    async def call(self, method: str, body: Any = None, type: Any = Any) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                client = await RpcClient.connect(str(self.session.controller_socket), self.session.secret)
                try:
                    return await client.call(method, body, type=type, timeout_s=10)
                finally:
                    client.close()
            except (WireError, OSError):
                assert time.monotonic() < deadline, f"{method} is not answered"
                await asyncio.sleep(0.01)

    async def app(self) -> ApplicationStatus | None:
        status: InstanceStatus = await self.call("status", type=InstanceStatus)
        return next((application for application in status.applications if application.name == "app"), None)

    async def history(self) -> ApplicationHistory:
        found: ApplicationHistory = await self.call("history", HistoryRequest(app="app"), ApplicationHistory)
        return found

    async def deploy(self, spec: ApplicationSpec) -> None:
        await self.call("deploy", DeployRequest(applications=[spec]), DeployReply)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not await condition():
            assert time.monotonic() < deadline, await self.app()
            await asyncio.sleep(0.01)

    async def settles(self, status: str, outcome: str, replicas: int) -> None:
        """Wait until the application is so, its history says so, and no other process is left of it."""

        async def settled() -> bool:
            app = await self.app()
            return (
                app is not None
                and app.status == status
                and (await self.history()).deploys[0].outcome == outcome
                and sum(len(deployment.replicas) for deployment in app.deployments) == replicas
            )

        await self.until(settled)

    async def generation(self) -> int:
        return int((await self.http.get("/")).json()["generation"])

    async def pids(self) -> set[int]:
        app = await self.app()
        assert app is not None
        return {replica.pid or 0 for deployment in app.deployments for replica in deployment.replicas}


@asynccontextmanager
async def dying_instance() -> AsyncIterator[Dying]:
    options = InstanceConfig(http=HTTPOptions(port=0), rest=RestOptions(port=0))
    config = RootConfig(
        http_port=0,
        rest_port=0,
        instance=options.model_dump(mode="json"),
        controller_entry="controller.dying_controller:main",
        sys_path=[str(Path(__file__).parents[1])],
    )
    handle = await asyncio.to_thread(launch, config)
    made = Dying(handle.session)
    try:
        yield made
    finally:
        await made.http.aclose()
        await made.rest.aclose()
        await asyncio.to_thread(handle.stop)


def generation(number: int) -> ApplicationSpec:
    return build_application(
        served.Pid.options(num_replicas=1).bind(number), name="app", route_prefix="/", external_scaler_enabled=True
    )


def broken() -> ApplicationSpec:
    return build_application(
        served.Broken.options(name="Pid", num_replicas=1, max_constructor_retry_count=1).bind(),
        name="app",
        route_prefix="/",
    )


async def update(instance: Dying) -> None:
    number = await instance.generation() + 1
    await instance.deploy(generation(number))
    await instance.settles("RUNNING", "SUCCEEDED", replicas=1)
    assert await instance.generation() == number
    deploys = (await instance.history()).deploys
    assert len({deploy.version for deploy in deploys}) == len(deploys), "nothing is recorded twice"


async def failing_update(instance: Dying) -> None:
    number, before = await instance.generation(), await instance.pids()
    await instance.deploy(broken())
    await instance.settles("DEPLOY_FAILED", "FAILED", replicas=1)
    assert (await instance.generation(), await instance.pids()) == (number, before)


async def rollback(instance: Dying) -> None:
    number = await instance.generation()
    to = (await instance.history()).rollback_to
    if to is None:
        await instance.deploy(generation(number := number + 1))
        await instance.settles("RUNNING", "SUCCEEDED", replicas=1)
        to = (await instance.history()).rollback_to
    await instance.call("rollback", RollbackRequest(app="app", to=to), RollbackReply)
    await instance.settles("RUNNING", "SUCCEEDED", replicas=1)
    assert await instance.generation() != number
    assert (await instance.history()).deploys[0].restores is not None


async def delete(instance: Dying) -> None:
    if await instance.app() is not None:
        await instance.call("delete", DeleteRequest(names=["app"]))

    async def gone() -> bool:
        return await instance.app() is None

    await instance.until(gone)
    assert (await instance.http.get("/")).status_code == 404


async def config(instance: Dying) -> None:
    number = await instance.generation() + 1
    application = {
        "name": "app",
        "import_path": "controller.served:generation",
        "args": {"number": str(number)},
        "runtime_env": {"working_dir": str(Path(__file__).parents[1])},
    }
    while True:
        try:
            answer = await instance.rest.put("/api/serve/applications/", json={"applications": [application]})
            break
        except httpx.TransportError:
            await asyncio.sleep(0.01)
    assert answer.status_code == 200, answer.text

    async def arrived() -> bool:
        return await instance.generation() == number

    await instance.until(arrived)
    await instance.settles("RUNNING", "SUCCEEDED", replicas=1)


async def scale(instance: Dying) -> None:
    app, before = await instance.app(), await instance.pids()
    assert app is not None
    target = 3 - app.deployments[0].target_num_replicas
    body = {"target_num_replicas": target}
    while True:
        try:
            answer = await instance.rest.post("/api/v1/applications/app/deployments/Pid/scale", json=body)
            break
        except httpx.TransportError:
            await asyncio.sleep(0.01)
    assert answer.status_code == 200, answer.text
    await instance.settles("RUNNING", "SUCCEEDED", replicas=target)
    after = await instance.pids()
    assert before < after or after < before, "nothing restarts"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("change", "stride", "at_least"),
    [
        (update, 1, 14),
        (failing_update, 1, 14),
        (delete, 1, 14),
        (scale, 1, 2),
        # These write as an update does, and a little more: every third point will do.
        (rollback, 3, 14),
        (config, 3, 20),
    ],
)
async def test_what_was_asked_for_comes_true_wherever_the_controller_is_killed(
    change: Callable[[Dying], Awaitable[None]], stride: int, at_least: int
) -> None:
    point = 0
    while True:
        async with dying_instance() as instance:
            for _ in range(POINTS_PER_INSTANCE):
                if await instance.app() is None or change is failing_update:
                    await instance.deploy(generation(1))
                    await instance.settles("RUNNING", "SUCCEEDED", replicas=1)
                instance.die_at(point)
                await change(instance)
                if not instance.died:  # there is no such write any more
                    assert point >= at_least
                    return
                point += stride
