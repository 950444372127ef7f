"""SIGTERM: what is in flight is finished, what comes is refused, and nothing remains."""

from __future__ import annotations

import concurrent.futures
import signal
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.command import Place, fetch, place

from .conditions import until

pytestmark = pytest.mark.local_engine("an instance on a cluster serves on without its script")

APP = """
import asyncio, pathlib
import headrace as serve

@serve.deployment
class Slow:
    async def __call__(self, request) -> str:
        pathlib.Path("begun").touch()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.01)
        return "finished"

app = Slow.bind()
"""

SCRIPT = APP.replace(
    "app = Slow.bind()",
    """
serve.start(http_options={"port": 0}, rest_options={"port": 0})
from headrace import client
print(client.find().http_url, flush=True)
serve.run(Slow.bind(), blocking=True)
print("the end", flush=True)
""",
)

CONFIG = """
applications:
  - name: default
    route_prefix: /
    import_path: app:app
"""


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("how", ["run", "start"])
def test_sigterm_finishes_what_is_in_flight_and_refuses_the_rest(how: str) -> None:
    with place() as here, concurrent.futures.ThreadPoolExecutor() as threads:
        here.write("app.py", APP)
        here.write("config.yaml", CONFIG)
        if how == "run":
            command = here.begin("run", "app:app", "--port", "0")
            url = command.url()
        else:
            command = here.begin("start", "--block", "--port", "0", "--rest-port", "0")
            command.says("Press Ctrl-C")
            url, rest = [word for word in command.output.split() if word.startswith("http://")][:2]
            deployed = here.call("deploy", "config.yaml", "--address", rest)
            assert deployed.returncode == 0, deployed.stdout
        port = urllib.parse.urlsplit(url).port
        assert port
        assert _terminated(here, command.process, url, port, threads) == 0, command.output


def test_sigterm_to_a_script_that_blocks_in_run_does_the_same() -> None:
    with place() as here, concurrent.futures.ThreadPoolExecutor() as threads:
        here.write("script.py", SCRIPT)
        process = subprocess.Popen(
            [sys.executable, "script.py"], cwd=here.folder, env=here.environment(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        port = urllib.parse.urlsplit(url).port
        assert port
        try:
            until(lambda: "/" in httpx.get(f"{url}/-/routes", timeout=20).json())
            assert _terminated(here, process, url, port, threads) == 0
            assert process.stdout.read() == "the end\n"
        finally:
            process.kill()
            process.stdout.close()


def _terminated(
    here: Place, process: subprocess.Popen[Any], url: str, port: int, threads: concurrent.futures.Executor
) -> int:
    """Its exit status, after all else is seen to be right."""
    answer = threads.submit(fetch, url)
    until((here.folder / "begun").exists)
    process.send_signal(signal.SIGTERM)
    until(lambda: refused(port))
    Path(here.folder / "go").touch()
    assert answer.result(30) == "finished"
    status = process.wait(30)
    until(here.is_empty)
    return status
