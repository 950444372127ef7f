"""A hub follows the controller, through the controller's deaths."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headrace.config.spec import RouteEntry, RoutingTable
from headrace.router import hub as hub_module
from headrace.router.hub import ROUTES, RouterHub
from wire.conditions import until

from .fake_controller import SECRET, FakeController


@pytest.fixture
async def controller(folder: Path) -> AsyncIterator[FakeController]:
    made = FakeController(folder)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def hub(controller: FakeController) -> AsyncIterator[RouterHub]:
    made = RouterHub(str(controller.path), SECRET, None)
    yield made
    await made.close()


async def test_a_router_gets_what_is_known_and_what_changes(controller: FakeController, hub: RouterHub) -> None:
    await controller.deploy("Model", unavailable="not yet")
    router = hub.router("app", "Model")
    assert router is hub.router("app", "Model")
    await until(lambda: router.unavailable == "not yet")
    await controller.deploy("Model", max_queued_requests=7)
    await until(lambda: router.unavailable is None)


async def test_after_the_controller_comes_back_the_hub_asks_from_its_versions_on(
    controller: FakeController, hub: RouterHub
) -> None:
    for _ in range(3):
        await controller.deploy("A", unavailable="old")
    await controller.deploy("B", unavailable="old")
    routers = hub.routers([("app", "A"), ("app", "B")])
    await until(lambda: all(router.unavailable == "old" for router in routers))
    await controller.stop()
    await until(lambda: hub.client is None)
    await controller.deploy("B", unavailable="new")
    controller.asked.clear()
    await controller.start()
    await until(lambda: routers[1].unavailable == "new")
    assert controller.asked == [{"app#A": 3, "app#B": 1}]
    assert routers[0].unavailable == "old"


async def test_what_is_first_asked_for_while_the_controller_is_gone_is_followed_later(
    controller: FakeController, hub: RouterHub
) -> None:
    await hub.controller()
    await controller.stop()
    await until(lambda: hub.client is None)
    router = hub.router("app", "Model")
    await controller.deploy("Model", unavailable="news")
    await controller.start()
    await until(lambda: router.unavailable == "news")


async def test_the_controller_may_die_again_and_again(controller: FakeController, hub: RouterHub) -> None:
    router = hub.router("app", "Model")
    for i in range(5):
        await controller.deploy("Model", unavailable=f"news {i}")
        await until(lambda i=i: router.unavailable == f"news {i}")
        await controller.stop()
        await controller.start()


async def test_a_watch_that_breaks_off_begins_again(
    controller: FakeController, hub: RouterHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hub_module, "_LAST_RETRY_S", 0.01)
    controller.break_watches = 3
    await controller.deploy("Model", unavailable="news")
    router = hub.router("app", "Model")
    await until(lambda: router.unavailable == "news")
    assert "a bug in the controller" in caplog.text


async def test_an_update_that_nobody_understands_is_asked_for_again(
    controller: FakeController, hub: RouterHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_LAST_RETRY_S", 0.01)
    await controller.set("app#Model", {"app": 3})
    router = hub.router("app", "Model")
    await until(lambda: len(controller.asked) > 2)
    await controller.deploy("Model", unavailable="in order again")
    await until(lambda: router.unavailable == "in order again")


async def test_a_connection_that_ends_right_after_it_began_is_made_again(
    controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = hub_module.RpcClient.connect
    attempts = 0

    async def flaky(address: str, secret: bytes) -> Any:
        nonlocal attempts
        attempts += 1
        client = await connect(address, secret)
        if attempts < 4:
            client.connection.abort()
        return client

    monkeypatch.setattr(hub_module.RpcClient, "connect", flaky)
    hub = RouterHub(str(controller.path), SECRET, None)
    await controller.deploy("Model", unavailable="news")
    router = hub.router("app", "Model")
    await until(lambda: router.unavailable == "news")
    await hub.close()


async def test_whoever_wants_the_controller_waits_for_it(folder: Path) -> None:
    controller = FakeController(folder)
    hub = RouterHub(str(controller.path), SECRET, None)
    waiting = asyncio.ensure_future(hub.controller())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await controller.start()
    assert await (await waiting).call("ping") == "pong"
    await hub.close()
    await controller.stop()


async def test_a_proxys_hub_hears_of_routes_first(controller: FakeController) -> None:
    tables: list[RoutingTable] = []
    hub = RouterHub(str(controller.path), SECRET, None, on_routes=tables.append)
    await controller.set(ROUTES, RoutingTable(routes=[RouteEntry(app="app", route_prefix="/", ingress="Model")]))
    await until(lambda: tables)
    assert tables[0].routes[0].ingress == "Model"
    await hub.close()
    await until(lambda: controller.watching == 0)
