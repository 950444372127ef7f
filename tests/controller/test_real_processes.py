"""The controller over real processes: root, replicas and proxies, and `kill -9`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from headrace.build import build_application
from headrace.config.http_options import HTTPOptions, RestOptions
from headrace.config.instance import InstanceConfig
from headrace.config.spec import (
    ApplicationSpec,
    ApplicationStatus,
    DeleteRequest,
    DeployReply,
    DeployRequest,
    InstanceStatus,
)
from headrace.engine.launch import launch
from headrace.engine.root_config import RootConfig
from headrace.engine.session import Session
from headrace.wire.errors import ConnectionLost, RpcError, WireError
from headrace.wire.rpc import RpcClient

from . import served


class Running:
    """A real instance."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{(session.http or ('', 0))[1]}", timeout=20)
        self.rest = httpx.AsyncClient(base_url=f"http://127.0.0.1:{session.rest[1]}", timeout=20)

    async def call(self, method: str, body: Any = None, type: Any = Any) -> Any:
        client = await RpcClient.connect(str(self.session.controller_socket), self.session.secret)
        try:
            return await client.call(method, body, type=type, timeout_s=30)
        finally:
            client.close()

    async def deploy(self, *specs: ApplicationSpec) -> None:
        await self.call("deploy", DeployRequest(applications=list(specs)), DeployReply)

    async def status(self) -> InstanceStatus:
        found: InstanceStatus = await self.call("status", type=InstanceStatus)
        return found

    async def app(self, name: str = "app") -> ApplicationStatus:
        return next(a for a in (await self.status()).applications if a.name == name)

    async def until(self, status: str, name: str = "app", timeout_s: float = 20.0) -> ApplicationStatus:
        deadline = time.monotonic() + timeout_s
        while (found := await self.app(name)).status != status:
            assert time.monotonic() < deadline, f"{found.status}: {found.message}"
            await asyncio.sleep(0.01)
        return found

    async def pids(self, name: str = "app") -> set[int]:
        return {r.pid or 0 for d in (await self.app(name)).deployments for r in d.replicas if r.state == "RUNNING"}

    async def kill_controller(self) -> None:
        """And wait for the next one."""
        old = (await self.status()).controller_pid
        os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while True:
            try:
                if (await self.status()).controller_pid != old:
                    return
            except (WireError, OSError):
                pass
            assert time.monotonic() < deadline, "no new controller"
            await asyncio.sleep(0.01)


@pytest.fixture
async def running(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    options = InstanceConfig(http=HTTPOptions(port=0), rest=RestOptions(port=0))
    config = RootConfig(http_port=0, rest_port=0, instance=options.model_dump(mode="json"))
    handle = await asyncio.to_thread(launch, config)
    made = Running(handle.session)
    try:
        yield made
    finally:
        await made.http.aclose()
        await made.rest.aclose()
        await asyncio.to_thread(handle.stop)


def spec(app: Any, name: str = "app", route_prefix: str | None = "/") -> ApplicationSpec:
    return build_application(app, name=name, route_prefix=route_prefix)


async def test_replicas_that_are_killed_are_replaced_within_a_second(running: Running) -> None:
    await running.deploy(spec(served.Pid.bind()))
    await running.until("RUNNING")
    before = await running.pids()
    victim = min(before)
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while victim in (now := await running.pids()) or len(now) < 2:
        assert time.monotonic() - started < 5
        await asyncio.sleep(0.01)
    assert time.monotonic() - started < 1.0
    assert before - {victim} <= now
    await running.until("RUNNING")


async def test_a_killed_controller_comes_back_and_nothing_restarts(running: Running, tmp_path: Path) -> None:
    file = tmp_path / "go"
    await running.deploy(
        spec(served.Pid.bind()),
        spec(served.SlowToStart.bind(str(file)), "slow", "/slow"),
        spec(served.Blocker.bind(), "blocker", "/blocker"),
    )
    await running.until("RUNNING")
    await running.until("RUNNING", "blocker")
    before = {d.name: {r.pid for r in d.replicas} for a in (await running.status()).applications for d in a.deployments}
    blocked = asyncio.create_task(running.http.get("/blocker"))
    await asyncio.sleep(0.3)
    await running.kill_controller()
    assert (await running.http.get("/")).json()["pid"] in before["Pid"]
    assert (await running.app("slow")).status == "DEPLOYING"
    assert (await blocked).status_code == 200
    file.touch()
    await running.until("RUNNING", "slow")
    await running.until("RUNNING", "blocker")
    after = {d.name: {r.pid for r in d.replicas} for a in (await running.status()).applications for d in a.deployments}
    assert after == before


async def test_a_replica_that_blocks_its_loop_is_busy_and_not_replaced(running: Running) -> None:
    await running.deploy(spec(served.Blocker.bind()))
    await running.until("RUNNING")
    before = await running.pids()
    request = asyncio.create_task(running.http.get("/"))
    messages = set()
    while not request.done():
        messages.add((await running.app()).deployments[0].message)
        await asyncio.sleep(0.05)
    assert request.result().json() in before
    assert any("has blocked the event loop" in message for message in messages)
    assert await running.pids() == before


async def test_a_constructor_that_raises_is_told_with_the_end_of_its_traceback(running: Running) -> None:
    await running.deploy(spec(served.Broken.bind()))
    status = await running.until("DEPLOY_FAILED")
    assert "weights.bin is not where it should be" in status.message
    assert "headrace/replica" not in status.message, "the user's own frames only"


async def test_no_request_fails_while_an_update_rolls(running: Running) -> None:
    await running.deploy(spec(served.Pid.bind(1)))
    await running.until("RUNNING")
    generations: list[int] = []
    done = asyncio.Event()

    async def requests() -> None:
        while not done.is_set():
            answer = await running.http.get("/")
            assert answer.status_code == 200, answer.text
            generations.append(answer.json()["generation"])

    clients = [asyncio.create_task(requests()) for _ in range(8)]
    await asyncio.sleep(0.1)
    await running.deploy(spec(served.Pid.bind(2)))
    await running.until("RUNNING")
    await asyncio.sleep(0.1)
    done.set()
    await asyncio.gather(*clients)
    assert generations[0] == 1 and generations[-1] == 2


async def test_a_config_is_built_in_a_process_of_its_own_and_served(running: Running) -> None:
    config = {
        "applications": [
            {
                "name": "app",
                "import_path": "controller.served:app",
                "runtime_env": {"working_dir": str(Path(__file__).parents[1])},
                "deployments": [{"name": "Pid", "num_replicas": 1}],
            }
        ]
    }
    assert (await running.rest.put("/api/serve/applications/", json=config)).status_code == 200
    await running.until("RUNNING")
    assert len(await running.pids()) == 1
    assert (await running.http.get("/")).status_code == 200
    config["applications"][0]["import_path"] = "controller.served:ap"
    await running.rest.put("/api/serve/applications/", json=config)
    status = await running.until("DEPLOY_FAILED")
    assert "'ap'" in status.message
    assert (await running.http.get("/")).status_code == 200, "what ran before still serves"


async def test_a_request_that_is_wrong_comes_back_as_a_config_error(running: Running) -> None:
    with pytest.raises(RpcError) as caught:
        await running.call("delete", DeleteRequest(names=["nothing"]))
    assert caught.value.kind == "ConfigError" and "no application 'nothing'" in caught.value.message


async def test_shutdown_ends_every_process(running: Running) -> None:
    await running.deploy(spec(served.Pid.bind()))
    await running.until("RUNNING")
    pids = await running.pids()
    with contextlib.suppress(ConnectionLost):  # the end may come before the answer
        await running.call("shutdown")
    deadline = time.monotonic() + 10
    while running.session.alive or any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
