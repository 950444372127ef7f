"""The script that serves: starting, running several applications, asking for status, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

import headrace as serve
from headrace import client as driver
from headrace.exceptions import ConfigError, NotRunningError

from .conditions import until


@serve.deployment
class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> str:
        return self.name


def test_several_applications_are_run_together(http: httpx.Client) -> None:
    handles = serve.run_many(
        [serve.RunTarget(Named.bind(name), name=name, route_prefix=f"/{name}") for name in ("one", "two", "three")]
    )
    assert [handle.remote().result() for handle in handles] == ["one", "two", "three"]
    assert http.get("/-/routes").json() == {"/one": "one", "/three": "three", "/two": "two"}
    assert http.get("/two").text == "two"
    assert {name: a.status for name, a in serve.status().applications.items()} == dict.fromkeys(
        ["one", "two", "three"], "RUNNING"
    )


def test_of_applications_that_are_run_together_all_are_taken_or_none(http: httpx.Client) -> None:
    serve.run(Named.bind("here"), name="here", route_prefix="/here")
    for targets, expected in [
        ([], "at least one"),
        ([serve.RunTarget(Named.bind("a")), serve.RunTarget(Named.bind("b"))], "name 'default'"),
        ([serve.RunTarget(Named.bind("a"), name="a"), serve.RunTarget(Named.bind("b"), name="b")], "route prefix '/'"),
        (
            [serve.RunTarget(Named.bind("a"), "a", "/a"), serve.RunTarget(Named.bind("b"), "b", "/here")],
            "'/here' of application 'b' is the route of application 'here'",
        ),
    ]:
        with pytest.raises(ConfigError, match=expected):
            serve.run_many(targets)
    assert list(serve.status().applications) == ["here"]


def test_status_tells_of_proxies_applications_and_deployments(http: httpx.Client) -> None:
    serve.run(Named.options(num_replicas=2).bind("a"), name="app")
    status = serve.status()
    assert set(status.proxies.values()) == {"HEALTHY"}
    application = status.applications["app"]
    assert (application.status, application.message) == ("RUNNING", "")
    overview = application.deployments["Named"]
    assert (overview.status, overview.status_trigger) == ("HEALTHY", "CONFIG_UPDATE_COMPLETED")
    assert overview.replica_states == {"RUNNING": 2}


def test_deleting_what_is_not_there_says_so(http: httpx.Client) -> None:
    serve.run(Named.bind("a"), name="models")
    with pytest.raises(ConfigError, match=r"no application 'model'; did you mean 'models'\?"):
        serve.delete("model")


def test_starting_again_changes_nothing_and_says_what_it_ignores(
    http: httpx.Client, instance: driver.Client, caplog: pytest.LogCaptureFixture
) -> None:
    before = driver.find().session.dir
    serve.start()
    assert not caplog.records
    serve.start(http_options={"port": 12345, "num_proxies": 1})
    assert driver.find().session.dir == before
    assert "http_options.port" in caplog.text
    assert "num_proxies" not in caplog.text


def test_init_connects_and_sets_the_environment_of_what_is_run(http: httpx.Client, tmp_path: Path) -> None:
    @serve.deployment
    class Where:
        def __call__(self) -> tuple[str | None, str]:
            return os.environ.get("FLAVOUR"), os.getcwd()

    before = driver.find()
    try:
        serve.init(runtime_env={"env_vars": {"FLAVOUR": "sweet"}, "working_dir": str(tmp_path)}, namespace="x")
        assert driver.find() is before
        assert serve.run(Where.bind()).remote().result() == ("sweet", str(tmp_path))
        with pytest.raises(ConfigError, match=r"'num_cpu'; did you mean 'num_cpus'\?"):
            serve.init(num_cpu=3)
        with pytest.raises(ConfigError, match="did you mean 'pip'"):
            serve.init(runtime_env={"pips": ["numpy"]})
    finally:
        serve.init()
    assert serve.run(Where.bind()).remote().result() == (None, os.getcwd())


async def test_run_works_within_a_running_event_loop_as_in_notebooks(http: httpx.Client) -> None:
    handle = serve.run(Named.bind("x"))
    assert await handle.remote() == "x"


def test_the_default_application_is_meant_where_none_is_named(http: httpx.Client) -> None:
    serve.run(Named.bind("x"))
    assert serve.get_app_handle("default").remote().result() == "x"
    assert serve.get_deployment_handle("Named").remote().result() == "x"


# Scripts of their own: what they start must end with them, whatever ends them.


def test_modules_of_ray_serve_are_found_where_their_imports_lead() -> None:
    script = """
import headrace as serve
serve.exceptions.BackPressureError, serve.config.AutoscalingConfig
from headrace.schema import LoggingConfig, ServeDeploySchema
from headrace.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from headrace.exceptions import RayServeException
from headrace.config import HTTPOptions, RequestRouterConfig
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


BEGINNING = """
import headrace as serve, os, signal, sys
from headrace import client

@serve.deployment
class Model:
    def __init__(self):
        print("constructed by", os.getpid())

    async def __call__(self, request):
        print("asked")
        print("complained", file=sys.stderr)
        return "ok"

@serve.deployment
class Hangs:
    def __init__(self):
        import time
        time.sleep(600)

def hang():
    try:
        serve.run(Hangs.bind(), name="hangs", route_prefix="/hangs")
    except KeyboardInterrupt:
        sys.exit(1)

def begin():
    serve.start(http_options={"port": 0}, rest_options={"port": 0})
    serve.run(Model.bind())
    found = client.find()
    print("at", found.http_url, found.session.root_pid, found.session.dir, flush=True)
"""


class Script:
    """A script that is running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.output: list[str] = []
        line = ""
        while not line.startswith("at "):
            line = process.stdout.readline()
            assert line, f"the script ended: {process.wait()}"
            self.output.append(line)
        _, self.url, root, self.folder = line.split()
        self.processes = [psutil.Process(int(root)), *psutil.Process(int(root)).children(recursive=True)]

    def end(self, text: str = "") -> tuple[int, str]:
        """Send `text`; returns the exit status and what was written."""
        output, _ = self.process.communicate(text, timeout=30)
        return self.process.returncode, "".join(self.output) + output

    def assert_nothing_remains(self) -> None:
        until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self.processes))
        until(lambda: not Path(self.folder).exists())
        assert not Path(f"/dev/shm/headrace-{Path(self.folder).name}").exists()


@contextmanager
def script(folder: Path, text: str, **environment: str) -> Iterator[Script]:
    file = folder / "script.py"
    file.write_text(BEGINNING + text)
    process = subprocess.Popen(
        [sys.executable, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield Script(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_what_replicas_print_appears_where_the_script_prints(tmp_path: Path) -> None:
    with script(tmp_path, "begin(); sys.stdin.read()") as running:
        assert httpx.get(running.url).text == "ok"
        assert running.process.stdout is not None
        printed = {running.process.stdout.readline() for _ in range(2)}  # at once, and not when the replica ends
        assert {line.split(" ", 1)[1].partition(": ")[2] for line in printed} == {"asked\n", "complained\n"}
        assert all(" default/Model/" in line for line in printed)
        status, output = running.end()
    assert status == 0
    assert "constructed by" in output
    running.assert_nothing_remains()


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("begin(); raise ValueError('a bug in the script')", 1),
        ("begin(); sys.exit(7)", 7),
        ("begin(); os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("begin(); os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("begin(); os._exit(3)", 3),
        ("begin(); serve.shutdown(); serve.shutdown()", 0),
        ("begin(); serve.shutdown(); begin()", 0),
        ("begin(); import threading; threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start(); hang()", 1),
    ],
)
@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_however_the_script_ends_nothing_of_it_remains(tmp_path: Path, ending: str, status: int) -> None:
    with script(tmp_path, ending) as running:
        assert running.end()[0] == status
    running.assert_nothing_remains()


@pytest.mark.parametrize("model", ["Model", "Hangs"])
@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_blocking_run_serves_until_it_is_interrupted(tmp_path: Path, model: str) -> None:
    text = f"""
serve.start(http_options={{"port": 0}}, rest_options={{"port": 0}})
found = client.find()
print("at", found.http_url, found.session.root_pid, found.session.dir, flush=True)
serve.run({model}.bind(), blocking=True)
print("after", flush=True)
"""
    with script(tmp_path, text) as running:
        if model == "Model":
            until(lambda: httpx.get(running.url).status_code == 200)
        else:  # Ctrl-C while replicas still start
            until(lambda: len(running.processes[0].children()) >= 4)
        running.processes += running.processes[0].children(recursive=True)
        running.process.send_signal(signal.SIGINT)
        status, output = running.end()
        assert status == 0 and "after" in output and "Traceback" not in output
    running.assert_nothing_remains()


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = folder / "script.py"
    file.write_text(BEGINNING + text)
    return subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_a_failed_deploy_ends_the_script_with_the_reason_and_nothing_remains(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
serve.start(http_options={"port": 0}, rest_options={"port": 0})
print(client.find().session.dir)

@serve.deployment(max_constructor_retry_count=1)
class Broken:
    def __init__(self):
        raise ValueError("the weights are missing")

serve.run(Broken.bind())
""",
    )
    assert ended.returncode == 1
    assert "DeploymentFailedError" in ended.stderr
    assert 'raise ValueError("the weights are missing")' in ended.stderr
    assert not Path(ended.stdout.split()[0]).exists()


@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_a_port_in_use_is_told_with_who_has_it_and_the_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_script(tmp_path, f"serve.start(http_options={{'port': {port}}})")
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in last and f"process {os.getpid()} (" in last and "http_options.port" in last


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("serve.start(http_options={'prot': 1})", "prot: no such option; did you mean 'port'?"),
        ("serve.deployment(num_replica=2)(Model.func_or_class)", "num_replica: no such option; did you mean"),
        ("serve.run(Model.bind(), route_prefix='api')", "must start with '/'"),
        ("serve.run(Model)", "Model.bind("),
        ("serve.run(Model.options(ray_actor_options={'num_gpu': 1}).bind())", "did you mean 'num_gpus'?"),
        ("Model.options(deployment_actors=[{'name': 'a', 'actor_class': 'm:C'}])", "deployment_actors"),
        ("serve.status()", "serve.run(app) starts one"),
    ],
)
@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_mistakes_end_the_script_and_are_told_with_what_would_be_right(
    tmp_path: Path, text: str, expected: str
) -> None:
    ended = run_script(tmp_path, text)
    assert ended.returncode == 1
    assert expected in ended.stderr.strip().splitlines()[-1]


@pytest.mark.local_engine("an instance on a cluster serves on without its script")
def test_without_an_instance_there_is_nothing_to_ask(sessions_folder: Path) -> None:
    serve.shutdown()
    with pytest.raises(NotRunningError):
        serve.status()
    with pytest.raises(NotRunningError):
        serve.get_app_handle("default")
    serve.shutdown()
