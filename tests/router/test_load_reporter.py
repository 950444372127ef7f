"""What a process tells the controller of its load, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from headrace.config.latency_sketch import merged, sketch_of
from headrace.config.spec import DeploymentTargets, Load, ReportLoadRequest
from headrace.router import router as router_module
from headrace.router.load_reporter import LoadReporter
from headrace.router.router import Router
from headrace.wire.errors import ConnectionLost

from .fake_replicas import FakeLink, RecordedCall, targets


class Controller:
    """Takes reports, unless it is `deaf`."""

    def __init__(self) -> None:
        self.closed = False
        self.deaf = False
        self.reports: list[dict[str, Load]] = []
        self.latencies: list[dict[int, int]] = []
        self.news = asyncio.Event()

    async def call(self, method: str, body: ReportLoadRequest, timeout_s: float) -> None:
        assert (method, body.caller) == ("report_load", "me")
        if self.deaf:
            raise ConnectionLost("gone")
        self.reports.append(body.loads)
        self.latencies += body.latencies.values()
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Told:
    """A reporter, a router that it follows, and the controller that it tells."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.controller = Controller()
        self.reporter = LoadReporter("me", loop, lambda: self.controller)  # type: ignore[arg-type, return-value]
        self.router = Router("app", "Model", loop, b"", None)

    def update(self, found: DeploymentTargets, interval_s: float | None) -> None:
        found.report_interval_s = interval_s
        self.router.update(found)
        self.reporter.follow(self.router)

    def submit(self, number: int = 1) -> RecordedCall:
        call = RecordedCall(number)
        self.router.submit(call)
        return call

    @property
    def loads(self) -> list[Any]:
        return [report["app#Model"] for report in self.controller.reports]


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(router_module, "ReplicaLink", FakeLink)
    return Told()


async def test_a_request_without_replicas_is_told_of_at_once(told: Told) -> None:
    told.update(targets({}), interval_s=600)
    told.submit()
    await told.controller.until(lambda: told.loads == [Load(queued=1)])
    told.submit(2)  # it is known that requests wait
    await asyncio.sleep(0)
    assert told.loads == [Load(queued=1)]


async def test_requests_that_came_before_the_replica_set_are_told_of_at_once(told: Told) -> None:
    told.submit()
    told.submit(2)
    told.update(targets({}), interval_s=600)
    await told.controller.until(lambda: told.loads == [Load(queued=2)])


async def test_requests_that_wait_when_the_last_replica_leaves_are_told_of_at_once(told: Told) -> None:
    told.update(targets({"a": 1}), interval_s=600)
    told.submit()
    assert told.loads == []
    told.update(targets({}), interval_s=600)
    await told.controller.until(lambda: told.loads == [Load(queued=1)])


async def test_waiting_and_sent_requests_are_told_of_at_every_interval_until_there_are_none(told: Told) -> None:
    told.update(targets({"a": 1}), interval_s=0.01)
    link = told.router._links["a"]
    assert isinstance(link, FakeLink)
    link.connect()
    first = told.submit()
    second = told.submit(2)
    await told.controller.until(lambda: told.loads[-2:] == [Load(queued=1, running=1)] * 2)
    second.cancel()
    first.cancel()
    await told.controller.until(lambda: told.loads[-1] == Load())
    count = len(told.loads)
    told.submit(3)
    await told.controller.until(lambda: told.loads[-1] == Load(running=1))
    assert told.loads[count:].count(Load()) == 0  # nothing was told while nothing was asked
    told.reporter.close()


async def test_a_new_controller_is_told_at_once(told: Told) -> None:
    told.update(targets({}), interval_s=600)
    told.controller.deaf = True
    told.submit()
    await asyncio.sleep(0)
    told.controller.deaf = False
    told.reporter.begin()
    await told.controller.until(lambda: Load(queued=1) in told.loads)


async def test_deployments_of_a_fixed_size_are_not_told_of(told: Told) -> None:
    told.update(targets({}), interval_s=None)
    told.submit()
    assert told.router.on_starving is None
    told.update(targets({}), interval_s=600)
    await told.controller.until(lambda: told.loads == [Load(queued=1)])
    told.update(targets({}), interval_s=None)
    assert told.router.on_starving is None


async def test_latencies_are_told_once_and_only_where_they_are_asked_for(told: Told) -> None:
    replicas = targets({"a": 9})
    told.update(replicas, interval_s=0.01)
    link = told.router._links["a"]
    assert isinstance(link, FakeLink)
    link.connect()
    assert told.submit().submitted_at == 0
    replicas.latency_target_s = 0.001
    told.update(replicas, interval_s=0.01)
    answered, given_up, quickly = (told.submit(number) for number in (2, 3, 4))
    answered.submitted_at -= 2.0
    answered.on_response(0, bytes(4), b"")
    given_up.submitted_at -= 5.0
    given_up.cancel()
    quickly.submitted_at = time.monotonic() + 1.0
    quickly.cancel()  # sooner than it is expected: says nothing
    await told.controller.until(lambda: bool(told.controller.latencies))
    assert told.controller.latencies == [merged((sketch_of([2.0]), sketch_of([5.0])))]
    told.reporter.close()
