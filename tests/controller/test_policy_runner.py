"""The process of a policy, over a real root: it is started, asked, given up and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.instances import config
from headrace.config.autoscaling_policy import AutoscalingPolicy
from headrace.config.policy_call import DeploymentFacts, PolicyLoad, PolicyQuestion
from headrace.controller.autoscaling.policy_runner import PolicyProcessSpec, PolicyRunner
from headrace.controller.short_ids import ShortIds
from headrace.engine.local import LocalEngine, RootHandle, launch
from headrace.engine.process import ProcessInfo
from headrace.policy_code import policy_spec

from .conftest import until
from .policy_samples import Sluggish


def facts() -> DeploymentFacts:
    return DeploymentFacts(
        deployment="Model",
        running_replicas=[],
        target_num_replicas=1,
        total_num_requests=0.0,
        total_queued_requests=0.0,
        min_replicas=1,
        max_replicas=4,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=time.time(),
        config={},
    )


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[RootHandle]:
    folder = tempfile.mkdtemp(prefix="hr-")
    monkeypatch.setenv("HEADRACE_SESSIONS", folder)
    handle = launch(config(sys_path=[str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "engine")]))
    yield handle
    handle.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def engine(root: RootHandle) -> AsyncIterator[LocalEngine]:
    engine = await LocalEngine.connect(root.session.dir)
    yield engine
    await engine.close()


@pytest.fixture
async def make(root: RootHandle, engine: LocalEngine, tmp_path: Path) -> AsyncIterator[Callable[..., PolicyRunner]]:
    made: list[PolicyRunner] = []

    def make(gate: Path = tmp_path / "gate", **options: Any) -> PolicyRunner:
        policy = AutoscalingPolicy(policy_function=Sluggish, policy_kwargs={"file": str(gate)})
        load = PolicyLoad(
            policy=policy_spec(policy, "policy"),
            app="app",
            of_application=False,
            sys_path=[str(Path(__file__).parents[1])],
        )
        spec = PolicyProcessSpec(
            owner="app#Model", version="1", load=load, env={}, cwd=None, runtime_env={}, logging={}
        )
        runner = PolicyRunner(
            spec,
            engine,
            root.session.secret,
            ShortIds().new,
            lambda: PolicyQuestion(deployments=[facts()]),
            lambda: None,
            **options,
        )
        made.append(runner)
        return runner

    async def follow() -> None:
        async for exited in engine.exits(0):
            for runner in made:
                if runner.process_name == exited.name:
                    runner.exited(exited)

    following = asyncio.create_task(follow())
    yield make
    following.cancel()
    for runner in made:
        await runner.end()


async def pid_of(engine: LocalEngine, runner: PolicyRunner) -> int:
    """The policy's process, once there is one."""
    deadline = time.monotonic() + 10
    while True:
        for info in await engine.list():
            if info.name == runner.process_name:
                return info.pid
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def gone(engine: LocalEngine, name: str) -> None:
    """Wait until no process has a name that begins so."""
    deadline = time.monotonic() + 10
    while any(info.name.startswith(name) for info in await engine.list()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_policy_that_hangs_is_given_up_and_started_again(
    make: Callable[..., PolicyRunner], engine: LocalEngine, tmp_path: Path
) -> None:
    runner = make(give_up_after_s=1.0)
    runner.begin()
    runner.ask()
    await until(lambda: runner.process_name)
    first = runner.process_name
    await until(lambda: runner.problem == "did not answer within 1 s; its process is started again")
    await until(lambda: runner.process_name not in ("", first))
    await gone(engine, first)
    (tmp_path / "gate").touch()
    await until(lambda: runner.answer is not None)  # without being asked again
    assert runner.answer is not None and runner.answer.targets == {"Model": 2.0} and runner.problem is None


async def test_a_process_that_an_earlier_controller_started_is_taken_over(
    make: Callable[..., PolicyRunner], engine: LocalEngine, tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    earlier = make()
    earlier.begin()
    earlier.ask()
    await until(lambda: earlier.answer is not None)
    earlier.close()
    pid = await pid_of(engine, earlier)
    later = make()
    [found] = [info for info in await engine.list() if info.name == earlier.process_name]
    later.begin(found)
    later.ask()
    await until(lambda: later.answer is not None)
    assert await pid_of(engine, later) == pid
    earlier.process_name = ""


async def test_a_process_that_died_before_it_could_be_taken_over_is_replaced(
    make: Callable[..., PolicyRunner], tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    runner = make()
    runner.begin(
        ProcessInfo(
            name="policy:app#Model#abcde", role="policy", pid=1, listen=None, started_at=0.0, address="/no/such.sock"
        )
    )
    runner.ask()
    await until(lambda: runner.answer is not None)


async def test_an_ended_policy_leaves_no_process(
    make: Callable[..., PolicyRunner], engine: LocalEngine, root: RootHandle
) -> None:
    runner = make()
    runner.begin()
    runner.ask()
    await until(lambda: runner.process_name)
    await runner.end()  # perhaps while it starts, perhaps while it hangs
    await gone(engine, "policy:")
    assert not list(root.session.dir.glob(f"{runner.process_name.rpartition('#')[2]}.sock"))


async def test_a_crash_is_told_with_its_signal(make: Callable[..., PolicyRunner], engine: LocalEngine) -> None:
    runner = make()
    runner.begin()
    runner.ask()
    pid = await pid_of(engine, runner)
    os.kill(pid, signal.SIGSEGV)
    await until(lambda: runner.problem == f"is gone: its process {pid} was killed by SIGSEGV, and is started again")
