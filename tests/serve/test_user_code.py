"""The user's class over its whole life: constructor, reconfigure, check_health, sync and async methods, __del__."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

import headrace as serve
from headrace.exceptions import ConfigError, DeploymentFailedError, DeploymentUnavailableError, ReplicaUnavailableError

from .conditions import deployment, ids, lines, running, until

# Classes are made within functions: they travel by value, so that replicas need not import the tests.


def test_a_constructor_that_raises_is_told_by_run_by_status_and_to_callers(http: httpx.Client) -> None:
    @serve.deployment(max_constructor_retry_count=2)
    class Broken:
        def __init__(self) -> None:
            raise ValueError("the weights are missing")

    with pytest.raises(DeploymentFailedError, match="the weights are missing"):
        serve.run(Broken.bind())
    application = serve.status().applications["default"]
    assert application.status == "DEPLOY_FAILED"
    overview = application.deployments["Broken"]
    assert (overview.status, overview.status_trigger) == ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED")
    assert 'raise ValueError("the weights are missing")' in overview.message
    answer = http.get("/")
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    with pytest.raises(DeploymentUnavailableError, match="the weights are missing"):
        serve.get_app_handle("default").remote().result(timeout_s=10)


def test_a_constructor_that_raises_once_is_tried_again(http: httpx.Client, tmp_path: Path) -> None:
    @serve.deployment
    class Flaky:
        def __init__(self, marker: Path) -> None:
            if not marker.exists():
                marker.touch()
                raise ConnectionError("the model store is not up yet")

        def __call__(self) -> str:
            return "up"

    assert serve.run(Flaky.bind(tmp_path / "marker")).remote().result() == "up"


@pytest.mark.parametrize("way", ["sys.exit", "os._exit"])
def test_a_constructor_that_exits_is_a_failed_start(http: httpx.Client, way: str) -> None:
    @serve.deployment(max_constructor_retry_count=1)
    class Exits:
        def __init__(self, way: str) -> None:
            import sys

            if way == "sys.exit":
                sys.exit("no licence found")
            os._exit(3)

    # Ray does not tell exit codes.
    expected = "SystemExit: no licence found" if way == "sys.exit" else "exit code 3|it crashed, or was killed"
    with pytest.raises(DeploymentFailedError, match=expected):
        serve.run(Exits.bind(way))


def test_while_a_constructor_takes_its_time_requests_wait(http: httpx.Client, tmp_path: Path) -> None:
    @serve.deployment
    class Slow:
        def __init__(self, gate: Path) -> None:
            import time

            (gate.parent / "begun").touch()
            while not gate.exists():  # blocks, as loading a model does
                time.sleep(0.01)

        def __call__(self) -> str:
            return "loaded"

    gate = tmp_path / "gate"
    serve.run_many([serve.RunTarget(Slow.bind(gate))], wait_for_applications_running=False)
    until((tmp_path / "begun").exists)
    until(lambda: serve.status().applications["default"].deployments["Slow"].replica_states == {"STARTING": 1})
    application = serve.status().applications["default"]
    assert application.status == "DEPLOYING"
    assert application.deployments["Slow"].status == "UPDATING"
    assert "0 of 1 replica running" in application.deployments["Slow"].message
    response = serve.get_app_handle("default").remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.1)
    gate.touch()
    assert response.result(timeout_s=10) == "loaded"
    until(lambda: serve.status().applications["default"].status == "RUNNING")


@pytest.mark.parametrize("local", [False, True])
def test_an_async_constructor_is_awaited(http: httpx.Client, local: bool) -> None:
    @serve.deployment
    class Engine:
        async def __init__(self, model: str) -> None:  # type: ignore[misc]
            import asyncio

            await asyncio.sleep(0)
            self.model = model

        def __call__(self) -> str:
            return self.model

    handle = serve.run(Engine.bind("tiny"), local_testing_mode=local)
    assert handle.remote().result() == "tiny"


def configurable(asynchronous: bool) -> Any:
    class Configured:
        def __init__(self) -> None:
            self.config: Any = None

        def get(self) -> tuple[Any, int]:
            return self.config, os.getpid()

    class Sync(Configured):
        def reconfigure(self, config: Any) -> None:
            if config == "refuse":
                raise ValueError("no such model")
            self.config = config

    class Async(Configured):
        async def reconfigure(self, config: Any) -> None:
            import asyncio

            await asyncio.sleep(0)
            self.config = config

    return serve.deployment(Async if asynchronous else Sync)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_new_user_config_reaches_running_replicas(http: httpx.Client, asynchronous: bool) -> None:
    model = configurable(asynchronous).options(name="Model", num_replicas=2, user_config={"threshold": 1})
    handle = serve.run(model.bind())
    before = ids("Model")
    config, _ = handle.get.remote().result()
    assert config == {"threshold": 1}
    serve.run(model.options(user_config={"threshold": [2]}).bind())
    seen = dict(reversed(handle.get.remote().result()) for _ in range(50))
    assert len(seen) == 2 and all(config == {"threshold": [2]} for config in seen.values())
    assert ids("Model") == before


def test_after_scaling_down_the_ranks_have_no_gap_and_no_replica_restarts(http: httpx.Client) -> None:
    @serve.deployment(num_replicas=4)
    class Ranked:
        def reconfigure(self, config: Any, rank: Any) -> None:
            self.told = rank.rank

        def ranks(self) -> tuple[int, int, int]:
            return os.getpid(), serve.get_replica_context().rank.rank, self.told

    def seen(number: int) -> dict[int, tuple[int, int]]:
        answers = [handle.options(retryable=True).ranks.remote().result() for _ in range(20 * number)]
        return {pid: (rank, told) for pid, rank, told in answers}

    handle = serve.run(Ranked.bind())
    until(lambda: len(seen(4)) == 4)
    before = seen(4)
    assert sorted(rank for rank, _ in before.values()) == [0, 1, 2, 3]
    # Of those that stay, some have the ranks of those that go: the first to come is the last to go.
    oldest = min(before, key=lambda pid: before[pid][0])
    os.kill(oldest, signal.SIGKILL)
    until(lambda: len(seen(4)) == 4 and oldest not in seen(4))
    serve.run(Ranked.options(num_replicas=2).bind())
    until(lambda: sorted(rank for rank, _ in seen(2).values()) == [0, 1])
    assert set(seen(2)) < set(before)
    assert all(rank == told for rank, told in seen(2).values())


@pytest.mark.parametrize("local", [False, True])
def test_reconfigure_may_take_the_rank_too(http: httpx.Client, local: bool) -> None:
    @serve.deployment
    class Model:
        def reconfigure(self, config: Any, rank: Any) -> None:
            self.config, self.rank = config, rank

        def get(self) -> tuple[Any, Any, Any]:
            return self.config, self.rank, serve.get_replica_context().rank

    config, rank, of_context = serve.run(Model.bind(), local_testing_mode=local).get.remote().result()
    assert config is None
    assert rank == of_context and (rank.rank, rank.node_rank, rank.local_rank) == (0, 0, 0)


def test_a_user_config_that_is_taken_away_calls_nothing(http: httpx.Client) -> None:
    model = configurable(False).options(name="Model", user_config="first")
    serve.run(model.bind())
    before = ids("Model")
    handle = serve.run(model.options(user_config=None).bind())
    assert handle.get.remote().result()[0] == "first"
    assert ids("Model") == before


def test_a_user_config_that_is_refused_fails_the_deploy_and_the_replicas_keep_serving(http: httpx.Client) -> None:
    model = configurable(False).options(name="Model", user_config="first")
    handle = serve.run(model.bind())
    before = ids("Model")
    with pytest.raises(DeploymentFailedError, match="no such model"):
        serve.run(model.options(user_config="refuse").bind())
    assert handle.get.remote().result()[0] == "first"
    assert ids("Model") == before
    serve.run(model.options(user_config="second").bind())
    assert handle.get.remote().result()[0] == "second"
    assert ids("Model") == before


def test_a_user_config_without_reconfigure_is_refused_at_once(http: httpx.Client) -> None:
    @serve.deployment(user_config={"a": 1})
    class Deaf:
        pass

    with pytest.raises(ConfigError, match="reconfigure"):
        serve.run(Deaf.bind())


@pytest.mark.parametrize("how", ["raises", "hangs"])
def test_a_replica_whose_check_health_fails_three_times_is_replaced(
    http: httpx.Client, how: str, tmp_path: Path
) -> None:
    @serve.deployment(health_check_period_s=0.05, health_check_timeout_s=0.2, graceful_shutdown_timeout_s=0.1)
    class Model:
        def __init__(self, how: str, checks: Path) -> None:
            self.how = how
            self.checks = checks
            self.well = True

        async def fall_ill(self) -> None:
            self.well = False

        async def check_health(self) -> None:
            if not self.well:
                import asyncio

                with self.checks.open("a") as file:
                    print(os.getpid(), file=file)
                if self.how == "raises":
                    raise RuntimeError("the GPU fell off the bus")
                await asyncio.sleep(60)

        async def __call__(self) -> int:
            return os.getpid()

    checks = tmp_path / "checks"
    handle = serve.run(Model.bind(how, checks))
    before = ids("Model")
    pid = handle.remote().result()
    handle.fall_ill.remote().result()
    until(lambda: ids("Model") and not ids("Model") & before)
    assert lines(checks) == [str(pid)] * 3
    assert handle.remote().result(timeout_s=10) != pid
    until(lambda: serve.status().applications["default"].status == "RUNNING")


def test_a_long_sync_request_does_not_make_a_replica_look_ill(http: httpx.Client, tmp_path: Path) -> None:
    @serve.deployment(health_check_period_s=0.02, health_check_timeout_s=0.1)
    class Model:
        def __init__(self, checks: Path) -> None:
            self.checks = checks

        def check_health(self) -> None:
            with self.checks.open("a") as file:
                print("checked", file=file)

        def __call__(self) -> int:
            import time

            checked = len(lines_of(self.checks))
            while len(lines_of(self.checks)) < checked + 10:
                time.sleep(0.01)
            return os.getpid()

    def lines_of(path: Path) -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    handle = serve.run(Model.bind(tmp_path / "checks"))
    before = ids("Model")
    handle.remote().result(timeout_s=20)
    assert ids("Model") == before


@pytest.mark.parametrize("asynchronous", [False, True])
def test_del_runs_once_when_a_replica_is_told_to_end(http: httpx.Client, asynchronous: bool, tmp_path: Path) -> None:
    def note(path: Path) -> None:
        with path.open("a") as file:
            print("gone", file=file)

    class Sync:
        def __init__(self, path: Path) -> None:
            self.path = path

        def __del__(self) -> None:
            note(self.path)

    class Async:
        def __init__(self, path: Path) -> None:
            self.path = path

        async def __del__(self) -> None:
            import asyncio

            await asyncio.sleep(0)
            note(self.path)

    notes = tmp_path / "notes"
    kind = serve.deployment(Async if asynchronous else Sync).options(name="Model", num_replicas=2)
    serve.run(kind.bind(notes))
    serve.delete("default")
    assert lines(notes) == ["gone", "gone"]


def test_sync_methods_run_one_at_a_time_and_beside_the_event_loop(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=10)
    class Model:
        def __init__(self) -> None:
            self.now = self.most = 0
            self.go = threading.Event()

        def __call__(self) -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            assert self.go.wait(10)
            self.now -= 1
            return self.most

        async def release(self) -> str:
            self.go.set()
            return "released"

    handle = serve.run(Model.bind())
    responses = [handle.remote() for _ in range(5)]
    assert handle.release.remote().result(timeout_s=10) == "released"
    assert [response.result(timeout_s=10) for response in responses] == [1] * 5


def test_max_concurrent_sync_lets_several_sync_methods_run(http: httpx.Client) -> None:
    @serve.deployment(max_ongoing_requests=10, max_concurrent_sync=3)
    class Model:
        def __init__(self) -> None:
            self.together = threading.Barrier(3)

        def __call__(self) -> int:
            return self.together.wait(10)

    handle = serve.run(Model.bind())
    responses = [handle.remote() for _ in range(3)]
    assert sorted(response.result(timeout_s=15) for response in responses) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_sys_exit_in_a_method_fails_its_request_only(http: httpx.Client, kind: str) -> None:
    @serve.deployment
    class Model:
        def sync(self) -> None:
            raise SystemExit(3)

        async def asynchronous(self) -> None:
            raise SystemExit(3)

        async def __call__(self) -> int:
            return os.getpid()

    handle = serve.run(Model.bind())
    pid = handle.remote().result()
    method = handle.sync if kind == "sync" else handle.asynchronous
    with pytest.raises(serve.exceptions.HeadraceError, match="SystemExit: 3"):
        method.remote().result(timeout_s=10)
    assert handle.remote().result() == pid


@pytest.mark.parametrize("way", ["os._exit", "segfault"])
def test_a_replica_that_user_code_ends_is_replaced(http: httpx.Client, way: str) -> None:
    @serve.deployment
    class Model:
        async def end(self, way: str) -> None:
            import ctypes

            if way == "os._exit":
                os._exit(0)
            ctypes.string_at(0)

        async def __call__(self) -> int:
            return os.getpid()

    handle = serve.run(Model.bind())
    pid = handle.remote().result()
    with pytest.raises(ReplicaUnavailableError, match="Model"):
        handle.end.remote(way).result(timeout_s=10)
    assert handle.remote().result(timeout_s=10) != pid
    until(lambda: deployment("Model").status == "HEALTHY")


def test_a_process_that_user_code_forked_does_not_keep_a_dead_replicas_callers_waiting(http: httpx.Client) -> None:
    @serve.deployment
    class Forks:
        def start(self) -> int:
            import multiprocessing
            import time

            # A fork holds copies of all that its parent has open, the connections of callers among them.
            worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            worker.start()
            assert worker.pid is not None
            return worker.pid

        async def hang(self) -> None:
            import asyncio

            await asyncio.sleep(600)

        async def end(self) -> None:
            os._exit(1)

        async def __call__(self) -> int:
            return os.getpid()

    handle = serve.run(Forks.bind())
    worker = handle.start.remote().result()
    pid = handle.remote().result()
    hanging = handle.hang.remote()
    ending = handle.end.remote()
    for response in (hanging, ending):
        with pytest.raises(ReplicaUnavailableError):
            response.result(timeout_s=10)
    assert handle.remote().result(timeout_s=10) != pid
    until(lambda: not Path(f"/proc/{worker}").exists())


def test_work_can_be_done_in_a_pool_of_processes(http: httpx.Client) -> None:
    @serve.deployment
    class Pool:
        def __init__(self) -> None:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            self.pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))

        async def __call__(self, n: int) -> int:
            import asyncio
            import operator

            return await asyncio.get_running_loop().run_in_executor(self.pool, operator.mul, n, n)

    handle = serve.run(Pool.bind())
    assert [handle.remote(n).result(timeout_s=20) for n in range(5)] == [0, 1, 4, 9, 16]
    assert len(running("Pool")) == 1
