"""A damaged store is refused by a controller that starts again, and told with the way out; requests go on meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cli.command import place
from headrace.engine.session import Session

from .conditions import until

pytestmark = pytest.mark.local_engine("a cluster keeps no state in a file")

SCRIPT = """
import headrace as serve, sys
serve.start(http_options={"port": 0}, rest_options={"port": 0})

@serve.deployment
class Model:
    async def __call__(self) -> str:
        return "ok"

serve.run(Model.bind())
from headrace import client
print(client.find().http_url, client.find().status().controller_pid, client.find().session.dir, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[tuple[str, int, Path, Path]]:
    """URL, pid of the controller, session folder, and what the instance logs."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT)
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    url, pid, folder = process.stdout.readline().split()
    yield url, int(pid), Path(folder), log
    process.communicate("")


def damage(folder: Path) -> bytes:
    """Spoils the store, as it lies on disk."""
    damaged = b"not a database " * 1000
    (folder / "state.db").write_bytes(damaged)
    for name in ("state.db-wal", "state.db-shm"):
        (folder / name).unlink(missing_ok=True)
    return damaged


def test_what_asks_for_an_instance_with_a_damaged_store_is_told_at_once_and_it_can_be_stopped() -> None:
    with place() as here:
        assert here.call("start", "--port", "0", "--rest-port", "0").returncode == 0
        session = Session.load(here.sessions / "current")
        damage(session.dir)
        (controller,) = (p for p in psutil.Process(session.root_pid).children() if p.name() == "headrace:contro")
        controller.kill()
        until((session.dir / "controller.error").exists)
        for command in (("status",), ("history",)):
            asked = here.call(*command)
            assert asked.returncode == 1
            assert "state.db cannot be read" in asked.stdout and "move the file away" in asked.stdout
        assert here.call("shutdown", "--yes").returncode == 0
        until(here.is_empty)


def test_a_damaged_store_is_refused_not_wiped_and_requests_go_on(driver: tuple[str, int, Path, Path]) -> None:
    url, controller, folder, log = driver
    store = folder / "state.db"
    damaged = damage(folder)
    os.kill(controller, signal.SIGKILL)
    until(lambda: "state.db cannot be read" in log.read_text())
    assert "move the file away to begin with no applications" in log.read_text()
    assert store.read_bytes() == damaged
    assert httpx.get(url).text == "ok"
    store.rename(folder / "damaged.db")
    rest = Session.load(folder).rest

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return bool(httpx.get(f"http://{rest[0]}:{rest[1]}/api/serve/applications/").json()["applications"] == {})
        return False

    until(answers)
    assert not (folder / "controller.error").exists()
