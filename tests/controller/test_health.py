"""What is found of replicas that do not answer: real processes that work, sleep and are stopped."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.controller.health import Inspect, check_health, is_stopped
from headrace.controller.replica_machine import FoundBusy, FoundStopped, HealthTimedOut
from headrace.engine.activity import activity_of
from headrace.engine.process import Activity
from serve.conditions import until

WORKS = "print(flush=True)\nwhile True: pass"
SLEEPS = "import time; print(flush=True); time.sleep(60)"


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """A socket that accepts and never answers: the vitals of a process whose threads do not run."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v"))
        listener.listen()
        yield str(tmp_path / "v")


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started.pid
        started.kill()


def inspecting(process: int) -> Inspect:
    async def inspect() -> Activity | None:
        return activity_of(process)

    return inspect


@pytest.mark.parametrize("process", [WORKS], indirect=True)
async def test_a_process_that_takes_cpu_time_is_busy_though_no_thread_answers(process: int, silent: str) -> None:
    found = await check_health(None, silent, b"s", 0.5, inspecting(process), vitals_timeout_s=0.5)
    assert isinstance(found, FoundBusy) and found.blocked_s >= 0.5


@pytest.mark.parametrize("process", [SLEEPS], indirect=True)
async def test_a_process_that_does_nothing_has_timed_out(process: int, silent: str) -> None:
    assert await check_health(None, silent, b"s", 0.5, inspecting(process), vitals_timeout_s=0.3) == HealthTimedOut(0.5)


@pytest.mark.parametrize("process", [WORKS, SLEEPS], indirect=True)
async def test_a_process_that_was_stopped_is_found_at_once(process: int, silent: str) -> None:
    assert not is_stopped(activity_of(process))
    psutil.Process(process).send_signal(signal.SIGSTOP)
    until(lambda: is_stopped(activity_of(process)))
    assert await check_health(None, silent, b"s", 0.5, inspecting(process), vitals_timeout_s=30) == FoundStopped(0.5)


def test_a_process_of_which_nothing_is_told_is_not_stopped() -> None:
    assert not is_stopped(None)
