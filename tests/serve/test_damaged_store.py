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
import pytest

from headrace.engine.session import Session

from .conditions import until

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


def test_a_damaged_store_is_refused_not_wiped_and_requests_go_on(driver: tuple[str, int, Path, Path]) -> None:
    url, controller, folder, log = driver
    store = folder / "state.db"
    damage = b"not a database " * 1000
    store.write_bytes(damage)
    for name in ("state.db-wal", "state.db-shm"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    os.kill(controller, signal.SIGKILL)
    until(lambda: "state.db cannot be read" in log.read_text())
    assert "move the file away to begin with no applications" in log.read_text()
    assert store.read_bytes() == damage
    assert httpx.get(url).text == "ok"
    store.rename(folder / "damaged.db")
    rest = Session.load(folder).rest

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{rest[0]}:{rest[1]}/api/serve/applications/").json()["applications"] == {}
        return False

    until(answers)
