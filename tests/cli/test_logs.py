"""`headrace logs`, with real processes."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator

import pytest

from headrace.cli.logs import _styled, seconds_ago
from headrace.exceptions import ConfigError

from .command import Place, fetch, place

APP = """\
import ctypes
import faulthandler
import subprocess
import headrace as serve

@serve.deployment
class Talks:
    def __init__(self):
        print("constructed")
        subprocess.run(["echo", "a child has its say"])

    def __call__(self, request) -> str:
        print("asked for", request.url.path)
        if request.url.path == "/crash":
            faulthandler.enable()
            ctypes.string_at(0)
        return "ok"

app = Talks.bind()
"""


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as folder:
        folder.write("talks.py", APP)
        yield folder


def test_logs_of_an_instance_without_a_terminal(here: Place) -> None:
    started = here.call("start", "--http-port", "0", "--rest-port", "0")
    address = next(line.split()[1] for line in started.stdout.splitlines() if line.startswith("Applications"))
    assert here.call("deploy", "talks:app").returncode == 0
    following = here.begin("logs", "-f", "default")
    following.says("constructed")
    assert fetch(f"{address.rstrip('/')}/hello") == "ok"
    following.says("asked for /hello")
    shown = here.call("logs", "default/Talks", "-n", "10").stdout
    assert "a child has its say" in shown and "INFO    default/Talks/" in shown
    lines = [json.loads(line) for line in here.call("logs", "--json", "--grep", "/HELLO").stdout.splitlines()]
    assert {line["process"].partition("/")[0] for line in lines} >= {"default"}
    wrong = here.call("logs", "defalt")
    assert wrong.returncode == 1 and "there is no log of 'defalt'; did you mean 'default'?" in wrong.stdout
    with pytest.raises(urllib.error.HTTPError):
        fetch(f"{address.rstrip('/')}/crash")
    following.says("Fatal Python error: Segmentation fault")
    assert following.interrupt() == 0
    assert "Traceback" not in following.output


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("1.5h", 5400), ("1d", 86400), ("7", 7)])
def test_times_ago(text: str, seconds: float) -> None:
    assert seconds_ago(text) == seconds


def test_a_time_ago_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="--since: must be a number with s, m, h or d, such as 10m, not 'today'"):
        seconds_ago("today")


def test_what_processes_write_cannot_steer_the_terminal() -> None:
    entry = {"time": 0.0, "level": "", "process": "p", "message": "a\x1b]0;title\x07\x9bm\nb"}
    plain = _styled(entry).plain
    assert "\x1b" not in plain and "\x07" not in plain and "\x9b" not in plain and plain.endswith("\nb")
