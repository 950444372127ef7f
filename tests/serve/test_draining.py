"""SIGTERM: what is in flight is finished, what comes is refused, and nothing remains."""

from __future__ import annotations

import concurrent.futures
import signal
import socket
import urllib.parse
from pathlib import Path

import pytest

from cli.command import fetch, place

from .conditions import until

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
        answer = threads.submit(fetch, url)
        until((here.folder / "begun").exists)
        command.process.send_signal(signal.SIGTERM)
        until(lambda: refused(port))
        Path(here.folder / "go").touch()
        assert answer.result(30) == "finished"
        assert command.process.wait(30) == 0, command.output
        until(here.is_empty)
