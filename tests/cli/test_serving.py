"""The commands that serve, with real processes: what runs, what is printed, and that nothing is left behind."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import pytest
import yaml

from .command import Place, fetch, place, until

HELLO = """\
import headrace as serve

@serve.deployment(num_replicas=2)
class Hello:
    def __call__(self, request) -> str:
        return "hello"

app = Hello.bind()
"""

PIPELINE = """\
import headrace as serve

@serve.deployment
class Length:
    def __call__(self, text: str) -> int:
        return len(text)

@serve.deployment
class Front:
    def __init__(self, length, text):
        self.length, self.text = length, text
    async def __call__(self, request) -> str:
        return str(await self.length.remote(self.text))

def build(args):
    return Front.bind(Length.bind(), args["text"])
"""

BROKEN = """\
import headrace as serve

@serve.deployment(max_constructor_retry_count=1)
class Broken:
    def __init__(self):
        raise RuntimeError("no weights in /models")

app = Broken.bind()
"""

CONFIG = """\
applications:
- name: length
  route_prefix: /length
  import_path: pipeline:build
  args: {text: four}
  deployments:
  - name: Length
    num_replicas: 2
- name: hello
  route_prefix: /hello
  import_path: hello:app
"""


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as folder:
        folder.write("hello.py", HELLO)
        folder.write("pipeline.py", PIPELINE)
        folder.write("broken.py", BROKEN)
        folder.write("serve.yaml", CONFIG)
        yield folder


def refuses(url: str) -> bool:
    try:
        fetch(url)
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_serves_until_it_is_interrupted_and_leaves_nothing_behind(here: Place, number: int) -> None:
    command = here.begin("run", "hello:app", "--port", "0")
    url = command.url()
    assert fetch(url) == "hello"
    assert command.interrupt(number) == 0
    assert "Stopped." in command.output
    assert "Traceback" not in command.output
    assert refuses(url)
    assert here.is_empty()


def test_when_run_is_killed_everything_under_it_ends(here: Place) -> None:
    command = here.begin("run", "hello:app", "--port", "0")
    url = command.url()
    command.process.kill()
    until(lambda: refuses(url))


def test_run_shows_how_replicas_start(here: Place) -> None:
    command = here.begin("run", "hello:app", "--port", "0")
    command.url()
    assert "Hello: 2/2 replicas running" in command.output
    assert "● RUNNING" in command.output


def test_run_passes_arguments_to_the_function_that_builds(here: Place) -> None:
    command = here.begin("run", "pipeline:build", "text=three", "--port", "0", "--route-prefix", "/n", "--name", "n")
    assert fetch(command.url("/n")) == "5"


def test_run_takes_a_config_file_with_several_applications(here: Place) -> None:
    command = here.begin("run", "serve.yaml", "--port", "0")
    assert fetch(command.url("/length")) == "4"
    assert fetch(command.url("/hello")) == "hello"
    assert command.interrupt() == 0
    assert here.is_empty()


def test_modules_are_found_in_the_app_dir(here: Place) -> None:
    (here.folder / "code").mkdir()
    (here.folder / "hello.py").rename(here.folder / "code" / "greeting.py")
    command = here.begin("run", "greeting:app", "--port", "0", "--app-dir", "code")
    assert fetch(command.url()) == "hello"


def test_a_constructor_that_raises_is_told_once_more_at_the_end(here: Place) -> None:
    done = here.call("run", "broken:app", "--port", "0")
    assert done.returncode == 1
    end = done.stdout[done.stdout.index("The deployment failed: ") :]
    assert "RuntimeError: no weights in /models" in end
    assert 'broken.py", line 6, in __init__' in end
    assert "headrace/" not in end
    assert here.is_empty()


def test_a_port_in_use_is_told_with_who_has_it_and_the_option(here: Place) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = here.call("run", "hello:app", "--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: the port is in use by process {os.getpid()}" in done.stdout
    assert "choose another port with --port" in done.stdout


def test_reload_deploys_again_and_survives_mistakes(here: Place) -> None:
    command = here.begin("run", "hello:app", "--port", "0", "--reload")
    url = command.url()
    command.says("watching")
    here.write("hello.py", HELLO.replace('"hello"', '"hello again'))
    assert "SyntaxError: unterminated string literal" in command.says("What ran before goes on serving.")
    assert fetch(url) == "hello"
    here.write("hello.py", HELLO.replace('"hello"', '"hello again"'))
    until(lambda: fetch(url) == "hello again")
    assert command.interrupt() == 0


def test_an_instance_in_the_background_from_start_to_shutdown(here: Place) -> None:
    started = here.call("start", "--http-port", "0", "--rest-port", "0")
    assert started.returncode == 0, started.stdout
    assert "headrace deploy CONFIG.yaml" in started.stdout

    deployed = here.call("deploy", "serve.yaml")
    assert deployed.returncode == 0, deployed.stdout
    address = next(line.split()[1] for line in started.stdout.splitlines() if line.startswith("Applications"))
    assert fetch(f"{address}/length") == "4"

    status = yaml.safe_load(here.call("status").stdout)
    assert status["applications"]["length"]["deployments"]["Length"]["replica_states"] == {"RUNNING": 2}
    config = yaml.safe_load(here.call("config", "--name", "length").stdout)
    assert config["args"] == {"text": "four"}

    again = here.call("start")
    assert again.returncode == 0
    assert "An instance is running already" in again.stdout

    here.write("serve.yaml", CONFIG[: CONFIG.index("- name: hello")])
    redeployed = here.call("deploy", "serve.yaml")
    assert "Note: hello is deleted: it is not in the config" in redeployed.stdout

    asked = here.call("shutdown")
    assert asked.returncode == 1
    assert "with the application length? [y/N]" in asked.stdout
    assert here.call("shutdown", "--yes").returncode == 0
    assert refuses(address)
    assert here.is_empty()
    assert "no Headrace instance is running" in here.call("shutdown", "--yes").stdout


def test_deploy_tells_why_an_application_fails_and_exits_1(here: Place) -> None:
    here.call("start", "--http-port", "0", "--rest-port", "0")
    done = here.call("deploy", "broken:app")
    assert done.returncode == 1
    assert "RuntimeError: no weights in /models" in done.stdout
    missing = here.call("deploy", "brokn:app")
    assert missing.returncode == 1
    assert "there is no module 'brokn'; did you mean 'broken'?" in missing.stdout


def test_run_on_an_instance_that_runs_already_takes_away_only_what_it_brought(here: Place) -> None:
    background = here.begin("run", "hello:app", "--port", "0", "--non-blocking")
    url = background.url()
    assert background.process.wait(30) == 0
    command = here.begin("run", "pipeline:build", "text=abc", "--name", "more", "--route-prefix", "/more")
    assert fetch(command.url("/more")) == "3"
    assert command.interrupt() == 0
    assert "Deleted more; the instance goes on." in command.output
    assert fetch(url) == "hello"
    assert list(yaml.safe_load(here.call("status").stdout)["applications"]) == ["default"]


def test_start_blocks_if_asked_to(here: Place) -> None:
    command = here.begin("start", "--block", "--http-port", "0", "--rest-port", "0")
    command.says("Press Ctrl-C to stop.")
    assert command.interrupt(signal.SIGTERM) == 0
    assert here.is_empty()


def test_on_a_terminal_there_are_bars_and_output_of_replicas_stands_above_them(here: Place) -> None:
    slow = HELLO.replace(
        "    def __call__",
        "    def __init__(self):\n"
        "        import sys, threading\n"
        "        assert sys.stdout.isatty() and sys.stderr.isatty()\n"
        "        print('loading weights')\n"
        "        threading.Event().wait(1)\n"
        "    def __call__",
    )
    here.write("hello.py", slow)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run", "hello:app", "--port", "0"],
        cwd=here.folder,
        env={**here.environment(), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while b"Press Ctrl-C" not in shown:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while b"Stopped." not in shown:
            shown += os.read(ours, 65536)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = shown.decode()
    assert "━━━━" in text
    assert "0/2 replicas" in text
    assert "● RUNNING" in text
    # Above the bars means: at the beginning of a line that has just been cleared, or of a new one.
    before = re.split(r"\d\d:\d\d:\d\d INFO +default/Hello/\w+: loading weights", text, maxsplit=1)[0]
    assert before != text
    assert before == "" or before.endswith(("\n", "\x1b[2K", "\x1b[0m"))


def test_history_tells_what_was_deployed_and_rollback_returns_to_it(here: Place) -> None:
    started = here.call("start", "--http-port", "0", "--rest-port", "0")
    assert started.returncode == 0, started.stdout
    address = next(line.split()[1] for line in started.stdout.splitlines() if line.startswith("Applications"))
    assert here.call("deploy", "pipeline:build", "text=four").returncode == 0
    assert here.call("deploy", "pipeline:build", "text=seven").returncode == 0
    assert fetch(address) == "5"
    history = yaml.safe_load(here.call("history").stdout)
    assert history["rollback_to"] == 1
    assert [(d["number"], d["outcome"], d["changes"]) for d in history["deploys"]] == [
        (2, "SUCCEEDED", "Front: arguments"),
        (1, "SUCCEEDED", "first deploy"),
    ]
    back = here.call("rollback")
    assert back.returncode == 0, back.stdout
    assert "Application default returns to deploy 1." in back.stdout
    assert fetch(address) == "4"

    # What cannot be built has changed nothing, and is what a rollback undoes.
    failed = here.call("deploy", "pipeline:built", "text=nine")
    assert failed.returncode == 1
    undone = here.call("rollback", "default")
    assert undone.returncode == 0, undone.stdout
    assert "● RUNNING" in undone.stdout
    assert fetch(address) == "4"

    again = here.call("rollback", "--to", "9")
    assert again.returncode == 1
    assert "has no deploy 9 in its history; there are 3, 2, 1" in again.stdout
    assert "did you mean 'default'" in here.call("rollback", "defaul").stdout
    assert "rollback to 1: Front: arguments" in here.call("history", "--format", "table").stdout
