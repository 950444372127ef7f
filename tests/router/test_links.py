"""Links to replicas over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headrace.config.spec import DeploymentTargets, ReplicaTarget
from headrace.engine.listeners import listen_unix
from headrace.router import link as link_module
from headrace.router.headers import with_ongoing
from headrace.router.router import Router
from headrace.wire import frames
from headrace.wire.callee import Listener, ServerCall, listen
from wire.conditions import until

from .fake_replicas import RecordedCall

SECRET = b"s" * 32


class Replica:
    """Answers every call, or keeps it where `holds`; rejects where it has `room` for no more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener: Listener | None = None
        self.held: list[ServerCall] = []
        self.holds = False
        self.room = 1000
        self.requests = 0

    def request(self, call: ServerCall) -> None:
        self.requests += 1
        if len(self.held) >= self.room:
            call.reject(with_ongoing(len(self.held)))
        elif self.holds:
            self.held.append(call)
        else:
            call.respond(0, with_ongoing(0), b"")

    def let_go(self) -> None:
        held, self.held = self.held, []
        for call in held:
            call.respond(0, with_ongoing(0), b"")
            call.connection.send(frames.CAPACITY, 0, 0)

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = await listen(listen_unix(self.path), SECRET, self)

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()
            for connection in list(self.listener.connections):
                connection.abort()


class Deployment:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.router = Router("app", "Model", asyncio.get_running_loop(), SECRET, None)
        self.replicas: dict[str, Replica] = {}

    async def set(self, *names: str, limit: int = 100, **more: Any) -> None:
        for name in names:
            if name not in self.replicas:
                self.replicas[name] = Replica(self.folder / f"{name}.sock")
                await self.replicas[name].start()
        self.router.update(
            DeploymentTargets(
                app="app",
                deployment="Model",
                replicas=[
                    ReplicaTarget(replica_id=name, address=str(self.replicas[name].path), max_ongoing_requests=limit)
                    for name in names
                ],
                **more,
            )
        )

    def submit(self, **routing: Any) -> RecordedCall:
        call = RecordedCall(0, **routing)
        self.router.submit(call)
        return call


@pytest.fixture
async def deployment(folder: Path) -> AsyncIterator[Deployment]:
    made = Deployment(folder)
    yield made
    made.router.close()
    for replica in made.replicas.values():
        replica.stop()
    await until(lambda: all(not r.listener or not r.listener.connections for r in made.replicas.values()))


async def test_requests_that_came_before_the_connection_are_answered(deployment: Deployment) -> None:
    calls = [deployment.submit() for _ in range(5)]
    await deployment.set("a")
    await until(lambda: all(call.outcomes == ["answered"] for call in calls))


async def test_a_replica_that_comes_back_is_used_again(deployment: Deployment) -> None:
    await deployment.set("a")
    await until(lambda: deployment.router.ready_replicas == 1)
    replica = deployment.replicas["a"]
    replica.stop()
    await until(lambda: deployment.router.ready_replicas == 0)
    waiting = deployment.submit()
    await replica.start()
    await until(lambda: waiting.outcomes == ["answered"])


async def test_a_replica_that_hangs_up_right_after_the_handshake_is_tried_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = link_module.connect
    attempts = 0

    async def flaky(*args: Any) -> Any:
        nonlocal attempts
        attempts += 1
        connection = await connect(*args)
        if attempts < 4:
            connection.abort()
        return connection

    monkeypatch.setattr(link_module, "connect", flaky)
    await deployment.set("a")
    await until(lambda: attempts == 4 and deployment.router.ready_replicas == 1)
    call = deployment.submit()
    await until(lambda: call.outcomes == ["answered"])


async def test_a_replica_that_stays_out_of_reach_is_warned_of_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link_module, "_TELL_AFTER_S", 0.1)
    await deployment.set("a")
    await until(lambda: deployment.router.ready_replicas == 1)
    replica = deployment.replicas["a"]
    for times in (1, 2):
        replica.stop()
        await until(lambda times=times: caplog.text.count("no connection to replica a") == times)
        await asyncio.sleep(0.3)
        assert caplog.text.count("no connection to replica a") == times
        await replica.start()
        await until(lambda: deployment.router.ready_replicas == 1)


async def test_a_replica_that_leaves_answers_what_it_has_and_is_let_go(deployment: Deployment) -> None:
    await deployment.set("a")
    first = deployment.replicas["a"]
    first.holds = True
    call = deployment.submit()
    await until(lambda: first.held)
    await deployment.set("b")
    assert first.listener is not None
    other = deployment.submit()
    await until(lambda: other.outcomes == ["answered"])
    assert len(first.listener.connections) == 1 and not call.settled
    first.let_go()
    await until(lambda: call.outcomes == ["answered"])
    await until(lambda: first.listener is not None and not first.listener.connections)
    assert first.requests == 1


async def test_a_full_replica_is_sent_nothing_until_it_says_that_it_has_room(deployment: Deployment) -> None:
    await deployment.set("a")
    replica = deployment.replicas["a"]
    replica.holds, replica.room = True, 2
    calls = [deployment.submit() for _ in range(5)]
    await until(lambda: len(replica.held) == 2 and deployment.router.queued == 3)
    requests = replica.requests
    more = [deployment.submit() for _ in range(20)]
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert replica.requests == requests
    replica.holds = False
    replica.let_go()
    await until(lambda: all(call.outcomes == ["answered"] for call in calls + more))


async def test_work_is_shared_between_callers_of_a_small_replica(deployment: Deployment, folder: Path) -> None:
    """Two routers that know nothing of each other, one replica: both get their turn."""
    await deployment.set("a")
    second = Deployment(folder)
    second.replicas = deployment.replicas
    await second.set("a")
    replica = deployment.replicas["a"]
    replica.holds, replica.room = True, 1
    calls = [each.submit() for _ in range(10) for each in (deployment, second)]
    while not all(call.settled for call in calls):
        await until(lambda: replica.held or all(call.settled for call in calls))
        held, replica.held = replica.held, []
        for call in held:
            call.respond(0, with_ongoing(0), b"")
        assert replica.listener is not None
        for connection in replica.listener.connections:
            connection.send(frames.CAPACITY, 0, 0)
    second.router.close()
