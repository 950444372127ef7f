"""`headrace top`, `stack` and `profile`, and warnings of blocked event loops, on an instance with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cli.py_spy import find_py_spy

from .command import Place, fetch, place, until
from .terminal import terminal

pytestmark = pytest.mark.local_engine("about commands on the machine of the processes, and about signals")

SHOP = """\
import asyncio, os
import headrace as serve

def burn(until):
    while not os.path.exists(until):
        sum(range(1000))

@serve.deployment(num_replicas=2)
class Model:
    def __call__(self, until: str) -> str:
        burn(until)
        return "burnt"

@serve.deployment
class Front:
    def __init__(self, model):
        self.model = model
        self.password = "hunter2"
    async def __call__(self, request) -> str:
        do, until = request.query_params.get("do"), request.query_params.get("until")
        if do == "block":
            open(until).read()
        if do == "wait":
            await self.waits(until)
        if do == "burn":
            return await self.model.remote(until)
        return "done"
    async def waits(self, until):
        while not os.path.exists(until):
            await asyncio.sleep(0.02)

app = Front.bind(Model.bind())
"""

CONFIG = "applications: [{name: shop, import_path: 'shop:app'}]\n"


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as folder:
        folder.write("shop.py", SHOP)
        folder.write("shop.yaml", CONFIG)
        started = folder.call("start", "--port", "0", "--rest-port", "0")
        assert started.returncode == 0, started.stdout
        deployed = folder.call("deploy", "shop.yaml")
        assert deployed.returncode == 0, deployed.stdout
        yield folder


def session(here: Place) -> Path:
    return (here.sessions / "current").resolve()


def http(here: Place) -> str:
    host, port = json.loads((session(here) / "session.json").read_text())["http"]
    return f"http://{host}:{port}"


def stacks(here: Place, target: str) -> list[dict[str, object]]:
    done = here.call("stack", target, "--json")
    told: list[dict[str, object]] = json.loads(done.stdout)
    return told


@contextlib.contextmanager
def while_it_does(here: Place, what: str) -> Iterator[None]:
    """A request is under way that ends with this."""
    file = here.folder / f"until-{time.monotonic_ns()}"
    if what == "block":
        os.mkfifo(file)  # whoever reads it waits for who writes
    asking = threading.Thread(target=fetch, args=(f"{http(here)}/?do={what}&until={file}",))
    asking.start()
    try:
        yield
    finally:
        file.write_text("")
        asking.join()


def log(here: Place) -> str:
    return "".join(file.read_text() for file in (session(here) / "logs").iterdir())


def test_a_replica_tells_its_stacks_while_its_event_loop_is_blocked(here: Place) -> None:
    line = SHOP.splitlines().index("            open(until).read()") + 1
    with while_it_does(here, "block"):
        found = until(lambda: _says(here, "shop/Front", "Front.__call__"))
        warned = until(lambda: _in(log(here), f"shop.py:{line} in Front.__call__ (open(until).read())"))
    assert re.search(rf"Thread MainThread .*\n(.*\n)*    Front.__call__ \(\S*shop.py:{line}\)", found)
    assert "hunter2" not in found
    assert "WARNING" in warned and "the event loop has been blocked for" in warned


def _says(here: Place, target: str, text: str) -> str:
    return _in(here.call("stack", target).stdout, text)


def _in(found: str, text: str) -> str:
    return found if text in found else ""


def test_a_task_tells_what_it_awaits(here: Place) -> None:
    with while_it_does(here, "wait"):
        found = until(lambda: _says(here, "shop/Front", "Front.waits"))
    task = found[found.index("Task ") :]
    assert task.index("Front.__call__") < task.index("Front.waits") < task.index("sleep")


def test_all_replicas_of_a_deployment_tell_theirs_and_one_is_named_by_the_end_of_its_id(here: Place) -> None:
    found = stacks(here, "shop/Model")
    assert len(found) == 2 and len({each["pid"] for each in found}) == 2
    target = str(found[0]["target"])
    [told] = stacks(here, target[-5:])
    assert (told["target"], told["pid"]) == (target, found[0]["pid"])


@pytest.mark.parametrize("target", ["controller", "proxy", "proxy-0"])
def test_proxies_and_the_controller_tell_theirs(here: Place, target: str) -> None:
    [told] = stacks(here, target)
    assert told["threads"] and told["tasks"]


def test_a_target_that_is_not_there_is_said_with_what_is(here: Place) -> None:
    done = here.call("stack", "shop/Modle")
    assert done.returncode == 1 and "did you mean 'shop/Model'?" in done.stdout
    assert "shop#Front#" in here.call("stack", "xyz").stdout


def test_a_replica_that_is_stopped_is_said_to_be(here: Place) -> None:
    [told] = stacks(here, "shop/Front")
    pid = int(str(told["pid"]))
    os.kill(pid, signal.SIGSTOP)
    try:
        done = here.call("stack", "shop/Front")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "is stopped by a signal (SIGSTOP)" in done.stdout
    if find_py_spy():
        assert "py-spy reads it from outside" in done.stdout or "does not permit" in done.stdout
    else:
        assert "pip install 'headrace[debug]'" in done.stdout and done.returncode == 1


def test_the_rest_api_tells_stacks_and_refuses_what_is_not_there(here: Place) -> None:
    host, port = json.loads((session(here) / "session.json").read_text())["rest"]
    url = f"http://{host}:{port}/api/headrace"
    [replica] = stacks(here, "shop/Front")
    told = json.loads(fetch(f"{url}/replicas/{str(replica['target']).replace('#', '%23')}/stacks"))
    assert told["pid"] == replica["pid"] and told["threads"][0]["name"] == "MainThread"
    for path, reason in (("replicas/shop%23Front%23zzzzz", "there is no replica"), ("proxies/p", "there is no proxy")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{url}/{path}/stacks")
        assert refused.value.code == 404 and reason in refused.value.read().decode()


@pytest.mark.skipif(find_py_spy() is None, reason="py-spy is not installed")
def test_a_profile_names_the_function_that_takes_the_time(here: Place) -> None:
    with while_it_does(here, "burn"):
        busy = str(until(lambda: _busy(here)))
        done = [here.call("profile", busy, "--seconds", "1", "--output", file) for file in ("f.svg", "f.json")]
    if "does not permit" in done[0].stdout:
        pytest.skip("this system permits nobody to look into processes")
    assert [each.returncode for each in done] == [0, 0], done
    assert "Wrote f.svg" in done[0].stdout
    assert "burn (shop.py:" in (here.folder / "f.svg").read_text()
    flames = json.loads((here.folder / "f.json").read_text())
    assert "burn" in {frame["name"] for frame in flames["shared"]["frames"]}


def _busy(here: Place) -> object:
    """A replica of Model that is burning."""
    return next((told["target"] for told in stacks(here, "shop/Model") if "burn" in json.dumps(told)), None)


def test_a_profile_is_of_one_process_and_in_a_known_form(here: Place) -> None:
    assert "has 2 processes; name one of them" in here.call("profile", "shop/Model").stdout
    assert "--output must end with .svg or .json" in here.call("profile", "shop/Front", "-o", "x.txt").stdout


def test_top_prints_one_table_of_one_interval(here: Place) -> None:
    with while_it_does(here, "burn"):
        done = here.call("top", "--once", "--interval", "1")
    assert done.returncode == 0
    assert "2 deployments  3/3 replicas" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("shop /")]
    assert sorted(row[2] for row in rows) == ["Front", "Model"]
    assert all("HEALTHY" in row for row in rows)


def test_top_tells_programs_what_happened(here: Place) -> None:
    command = here.begin("top", "--json", "--interval", "0.5")
    until(lambda: command.output)
    for _ in range(20):
        fetch(http(here))

    def requests() -> float:
        pages = [json.loads(line) for line in command.output.splitlines() if line.endswith("}")]
        return sum(
            deployment["requests_per_s"] * page["seconds"]
            for page in pages
            for deployment in page["deployments"]
            if deployment["deployment"] == "Front"
        )

    until(lambda: requests() > 19.9)
    assert requests() < 25
    assert command.interrupt() == 0
    assert "Traceback" not in command.output


def test_top_on_a_terminal_is_left_with_q_and_leaves_it_as_it_was(here: Place) -> None:
    with terminal(here, "top", "--interval", "0.5") as screen:
        screen.says("\x1b[?1049h", "DEPLOYMENT", "shop / ", "q quits")
        screen.types("s")
        screen.says("(name)")
        screen.types("q")
        assert screen.ends() == 0
        assert screen.text.rstrip().endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?1049l" in screen.text
        assert "Traceback" not in screen.text


def test_top_on_a_terminal_is_left_with_ctrl_c(here: Place) -> None:
    with terminal(here, "top", "--interval", "0.5") as screen:
        screen.says("q quits")
        screen.types("\x03")
        assert screen.ends() == 0
        assert "\x1b[?1049l" in screen.text and "Traceback" not in screen.text


def test_top_survives_a_controller_that_dies(here: Place) -> None:
    status = json.loads(fetch(f"{rest(here)}/api/headrace/status"))
    command = here.begin("top", "--json", "--interval", "0.3")
    until(lambda: command.output)
    os.kill(status["controller_pid"], signal.SIGKILL)
    until(lambda: _new_controller(here, status["controller_pid"]))
    seen = command.output.count("\n")
    until(lambda: command.output.count("\n") > seen + 2)
    assert command.interrupt() == 0


def rest(here: Place) -> str:
    host, port = json.loads((session(here) / "session.json").read_text())["rest"]
    return f"http://{host}:{port}"


def _new_controller(here: Place, before: int) -> bool:
    try:
        return bool(json.loads(fetch(f"{rest(here)}/api/headrace/status"))["controller_pid"] != before)
    except (OSError, ValueError):
        return False


def test_top_without_an_instance_says_so() -> None:
    with place() as empty:
        done = empty.call("top", "--address", "http://127.0.0.1:9", "--once")
    assert done.returncode == 1 and "nothing answers at http://127.0.0.1:9" in done.stdout


class WithToken(Place):
    """A place whose instance asks for a token."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "HEADRACE_REST_TOKEN": "s3cret"}


def test_top_needs_the_token_and_says_when_the_instance_ends() -> None:
    with place() as plain:
        other = WithToken(plain.folder)
        started = other.call("start", "--port", "0", "--rest-port", "0")
        assert started.returncode == 0, started.stdout
        refused = plain.call("top", "--once")
        assert refused.returncode == 1 and "refuses access" in refused.stdout
        watching = other.begin("top", "--interval", "0.3")
        watching.says("No applications are deployed")
        other.call("shutdown", "--yes")
        assert watching.process.wait(30) == 1
        assert "has ended, or cannot be reached any more" in watching.output
        assert "Traceback" not in watching.output
        other.end()
