from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.config.spec import ApplicationStatus, DeploymentStatus, DeploymentTargets, RoutingTable, WatchRequest
from headrace.controller.controller import Controller
from headrace.controller.store import Store
from headrace.controller.watch import ROUTES
from headrace.engine.resources import Machine

from .fakes import SECRET, FakeEngine


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the awaited condition did not come true"
        await asyncio.sleep(0.005)
    return value


class Instance:
    """A controller with its fake engine, and what tests ask of them."""

    def __init__(self, folder: Path, machine: Machine | None) -> None:
        self.folder = folder
        self.engine = FakeEngine(folder, machine)
        self.controller: Controller

    async def start(self) -> Controller:
        self.store = Store(self.folder / "state.db", self.engine.journal)
        self.controller = Controller(self.engine, self.folder, SECRET, self.store)
        await self.controller.start()
        return self.controller

    async def stop(self) -> None:
        await self.controller.close()
        self.store.close()

    def app(self, name: str = "app") -> ApplicationStatus:
        return next(a for a in self.controller.application_statuses() if a.name == name)

    def status(self, name: str = "Model", app: str = "app") -> DeploymentStatus:
        return next(d for d in self.app(app).deployments if d.name == name)

    async def until_status(self, status: str, name: str = "Model", app: str = "app") -> DeploymentStatus:
        await until(lambda: self.status(name, app).status == status)
        return self.status(name, app)

    def targets(self, name: str = "Model", app: str = "app") -> DeploymentTargets:
        update = self.controller.hub.snapshot(f"{app}#{name}")
        return msgspec.msgpack.decode(update.value, type=DeploymentTargets)

    def routes(self) -> dict[str, str]:
        table = msgspec.msgpack.decode(self.controller.hub.snapshot(ROUTES).value, type=RoutingTable)
        return {route.route_prefix: f"{route.app}#{route.ingress}" for route in table.routes}

    async def first_update(self, key: str) -> Any:
        stream = self.controller.hub.watch(WatchRequest(versions={key: 0}))
        try:
            return await asyncio.wait_for(anext(stream), 5)
        finally:
            await stream.aclose()  # type: ignore[attr-defined]


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: a Unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        yield Path(made)


@pytest.fixture
def machine() -> Machine | None:
    return None


@pytest.fixture
async def instance(folder: Path, machine: Machine | None) -> AsyncIterator[Instance]:
    made = Instance(folder, machine)
    await made.start()
    yield made
    await made.stop()
    await made.engine.close()
