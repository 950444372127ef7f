"""Calls to every replica of a deployment."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as serve
from headrace.exceptions import DeploymentUnavailableError
from headrace.local_testing import stop_local_applications


@serve.deployment(num_replicas=3, max_ongoing_requests=1)
class Cache:
    def __init__(self) -> None:
        self.size = 0

    def replica(self) -> str:
        return serve.get_replica_context().replica_id.unique_id

    async def grow(self, by: int, *, twice: bool = False) -> int:
        self.size += 2 * by if twice else by
        return self.size

    def fail(self) -> None:
        raise ValueError(self.replica())


@serve.deployment
class Front:
    def __init__(self, cache: serve.DeploymentHandle[Any]) -> None:
        self.cache = cache

    async def __call__(self) -> list[int]:
        return await self.cache.broadcast("grow", 5).results_async(timeout_s=30)


def test_every_replica_is_called(instance: Any) -> None:
    handle = serve.run(Cache.bind(), name="broadcast", route_prefix=None)
    assert len(set(handle.broadcast("replica").results())) == 3
    for _ in range(5):
        handle.grow.remote(1).result()
    grown = handle.broadcast("grow", 10, twice=True).results(timeout_s=30)
    assert sum(grown) == 5 + 3 * 20
    serve.delete("broadcast")


def test_what_replicas_raise_is_raised_or_returned(instance: Any) -> None:
    handle = serve.run(Cache.bind(), name="broadcast", route_prefix=None)
    with pytest.raises(ValueError):
        handle.broadcast("fail").results()
    errors = handle.broadcast("fail").results(return_exceptions=True)
    assert len({str(error) for error in errors if isinstance(error, ValueError)}) == 3
    serve.delete("broadcast")


def test_replicas_that_are_full_are_called_when_they_have_room(instance: Any) -> None:
    handle = serve.run(Cache.bind(), name="broadcast", route_prefix=None)
    several = [handle.broadcast("grow", 1) for _ in range(10)]
    assert max(max(one.results(timeout_s=30)) for one in several) == 10
    serve.delete("broadcast")


def test_user_code_calls_every_replica_too(instance: Any) -> None:
    handle = serve.run(Front.bind(Cache.bind()), name="broadcast", route_prefix=None)
    assert handle.remote().result() == [5, 5, 5]
    serve.delete("broadcast")


def test_without_a_replica_there_is_nobody_to_call(instance: Any) -> None:
    asleep: Any = Cache.options(num_replicas=None, autoscaling_config={"min_replicas": 0})
    handle = serve.run(asleep.bind(), name="broadcast", route_prefix=None)
    with pytest.raises(DeploymentUnavailableError, match="has no replica"):
        handle.broadcast("replica").results()
    serve.delete("broadcast")


def test_in_one_process_there_is_one_replica() -> None:
    handle = serve.run(Cache.bind(), name="local", local_testing_mode=True)
    assert handle.broadcast("grow", 2).results() == [2]
    stop_local_applications("local")
