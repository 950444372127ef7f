"""A session folder that outlives its roots, as on each machine of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.engine import session
from headrace.engine.launch import RootHandle, launch
from headrace.engine.root_config import RootConfig


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[bytes]]:
    """What the folder is kept for."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = session.sessions_dir() / "kept"
    locks = session.keep(folder)
    yield folder
    for lock in locks:
        os.close(lock)
    session.remove(folder)


def root(folder: Path, driver: subprocess.Popen[bytes], before: session.Session | None = None) -> RootHandle:
    return launch(
        RootConfig(
            session_dir=str(folder),
            secret="07" * 32,
            keep=True,
            driver_pid=driver.pid,
            gate_host="127.0.0.1",
            gate_port=before.gate[1] if before is not None and before.gate is not None else 0,
            http_host=None,
            rest_port=before.rest[1] if before is not None else 0,
            detached=True,
            engine="ray",
            cluster="a cluster",
            controller_entry="headrace.engine.ray.gate:main",
            warm=(),
        )
    )


def test_the_folder_stays_when_a_root_is_killed_and_the_next_one_takes_its_place(
    folder: Path, driver: subprocess.Popen[bytes]
) -> None:
    first = root(folder, driver)
    (folder / "x.sock").touch()
    os.kill(first.pid, 9)
    until(lambda: not session.root_lives(folder))
    assert session.is_alive(folder)
    second = root(folder, driver, before=first.session)
    assert second.session.gate == first.session.gate
    assert second.session.rest == first.session.rest
    assert second.session.secret == bytes.fromhex("07" * 32)
    assert (folder / "x.sock").exists()
    second.stop()
    assert not folder.exists()


def test_the_folder_goes_with_the_driver(folder: Path, driver: subprocess.Popen[bytes]) -> None:
    root(folder, driver)
    driver.kill()
    until(lambda: not folder.exists())


def test_the_folder_goes_when_driver_and_root_are_killed_at_once(folder: Path, driver: subprocess.Popen[bytes]) -> None:
    handle = root(folder, driver)
    os.kill(handle.pid, 9)
    driver.kill()
    driver.wait()
    until(lambda: not folder.exists())


def test_a_killed_roots_folder_is_not_swept_up_while_it_is_kept(folder: Path, driver: subprocess.Popen[bytes]) -> None:
    handle = root(folder, driver)
    os.kill(handle.pid, 9)
    until(lambda: not session.root_lives(folder))
    session.sweep()
    assert folder.exists()
    assert session.shm_dir(folder).exists()
