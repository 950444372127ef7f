"""The commands that talk to the REST API: what they ask, what they print, and how they tell what is wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from headrace.cli.app import app
from headrace.cli.messages import err, out

from .answering import answering, application, deployment, details, node


def headrace(*arguments: str) -> Result:
    """The command in this process, without a terminal."""
    # Whoever imported the consoles first has decided how wide they are.
    out.width = err.width = 200
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SERVING = details(
    application("text", deployment("Ingress"), deployment("Sentiment", 1, 2, "UPDATING"), route_prefix="/analyze"),
    application("other", deployment("Other"), route_prefix=None, config={"name": "other", "import_path": "o:app"}),
)


def test_help_comes_fast_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['headrace', '--help']\n"
        "from headrace.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'yaml', 'fastapi', 'uvicorn', 'msgspec', 'watchfiles'} & sys.modules.keys()\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "In a minute" in done.stdout
    assert time.perf_counter() - started < 3  # 0.2 s on an idle machine


@pytest.mark.parametrize("command", ["run", "start", "deploy", "status", "config", "build", "shutdown"])
def test_every_command_has_examples_in_its_help(command: str) -> None:
    result = headrace(command, "--help")
    assert result.exit_code == 0
    assert f"$ headrace {command}" in result.output


def test_the_version_is_told() -> None:
    assert headrace("--version").output.startswith("headrace 0.")


def test_a_misspelt_command_gets_the_nearest() -> None:
    result = headrace("stauts")
    assert result.exit_code == 2
    assert "Did you mean 'status'" in result.output


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "headrace", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("headrace 0.")


def test_status_for_people_is_a_table() -> None:
    with answering(SERVING) as rest:
        lines = headrace("status", "-a", rest.address, "-o", "table").output.splitlines()
    assert [" ".join(line.split()[:4]) for line in lines if line.strip()] == [
        "APPLICATION / DEPLOYMENT STATUS",
        "text ● RUNNING http://127.0.0.1:8000/analyze",
        "├─ Ingress ● HEALTHY",
        "└─ Sentiment ● UPDATING",
        "other ● RUNNING not",
        "└─ Other ● HEALTHY",
    ]
    assert "1/2  +1 starting" in lines[3]


def test_status_for_programs_has_ray_serves_keys() -> None:
    with answering(SERVING) as rest:
        as_json = json.loads(headrace("status", "-a", rest.address, "--format", "json").output)
        as_yaml = yaml.safe_load(headrace("status", "-a", rest.address).output)
    assert as_json == as_yaml
    assert as_json["applications"]["text"]["deployments"]["Sentiment"] == {
        "status": "UPDATING",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "replica_states": {"RUNNING": 1, "STARTING": 1},
        "message": "",
    }


def on_nodes() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    placed = deployment("Model", 3, 3)
    for replica, place in zip(placed["replicas"], ("a" * 56, "a" * 56, "b" * 56), strict=True):
        replica["node_id"] = place
    labels = {"ray.io/accelerator-type": "H100"}
    return details(application("text", placed)), [
        node("a" * 56, "10.0.0.1", head=True, zone="eu-1a"),
        node("b" * 56, "10.0.0.2", resources={"CPU": 4.0, "GPU": 2.0, "node:10.0.0.2": 1.0}, labels=labels),
        node("c" * 56, "10.0.0.3", alive=False),
    ]


def test_the_nodes_of_a_cluster_stand_below_the_table() -> None:
    told, nodes = on_nodes()
    with answering(told) as rest:
        rest.nodes = nodes
        lines = headrace("status", "-a", rest.address, "-o", "table").output.splitlines()
    assert [line.split() for line in lines[-4:]] == [
        ["NODE", "STATUS", "REPLICAS", "ADDRESS", "ZONE", "HAS"],
        ["aaaaaaaa", "head", "●", "ALIVE", "2", "10.0.0.1", "eu-1a", "8", "CPU,", "64", "GB"],
        ["bbbbbbbb", "●", "ALIVE", "1", "10.0.0.2", "4", "CPU,", "2", "GPU", "(H100)"],
        ["cccccccc", "●", "LOST", "0", "10.0.0.3", "8", "CPU,", "64", "GB"],
    ]


def test_programs_are_told_of_the_nodes_of_a_cluster() -> None:
    told, nodes = on_nodes()
    with answering(told) as rest:
        rest.nodes = nodes
        status = json.loads(headrace("status", "-a", rest.address, "--format", "json").output)
    assert status["nodes"]["a" * 56] == {"node_ip": "10.0.0.1", "status": "ALIVE", "replicas": 2}
    assert [node["status"] for node in status["nodes"].values()] == ["ALIVE", "ALIVE", "LOST"]


def test_one_machine_is_not_worth_telling_of() -> None:
    with answering(SERVING) as rest:
        assert "nodes" not in json.loads(headrace("status", "-a", rest.address, "--format", "json").output)
        assert "NODE" not in headrace("status", "-a", rest.address, "-o", "table").output


def test_the_reason_of_a_failure_stands_below_the_table() -> None:
    reason = "Deployment 'M': Traceback\n  File x\nValueError: no weights"
    failed = details(
        application("text", deployment("M", 0, 1, "DEPLOY_FAILED"), status="DEPLOY_FAILED", message=reason)
    )
    with answering(failed) as rest:
        output = headrace("status", "-a", rest.address, "-o", "table").output
    assert "text: DEPLOY_FAILED\n  Deployment 'M': Traceback\n    File x\n  ValueError: no weights\n" in output


def test_status_of_one_application_by_name() -> None:
    with answering(SERVING) as rest:
        one = yaml.safe_load(headrace("status", "-a", rest.address, "-n", "other").output)
        wrong = headrace("status", "-a", rest.address, "-n", "txt")
    assert one["status"] == "RUNNING"
    assert wrong.exit_code == 1
    assert "there is no application 'txt'; did you mean 'text'?" in wrong.output


def test_without_applications_status_says_what_to_do() -> None:
    with answering(details()) as rest:
        assert "headrace deploy" in headrace("status", "-a", rest.address, "-o", "table").output


def test_config_prints_what_was_deployed() -> None:
    with answering(SERVING) as rest:
        assert yaml.safe_load(headrace("config", "-a", rest.address).output) == {
            "name": "other",
            "import_path": "o:app",
        }


@pytest.mark.parametrize("command", [["status"], ["config"], ["deploy", "a:b"]])
def test_where_nothing_answers_the_fix_is_told(command: list[str]) -> None:
    result = headrace(*command, "-a", f"http://127.0.0.1:{closed_port()}")
    assert result.exit_code == 1
    assert "Headrace is not running: nothing answers at http://127.0.0.1:" in result.output
    assert "headrace start" in result.output
    assert "Traceback" not in result.output


def test_a_wrong_address_is_told() -> None:
    result = headrace("status", "-a", "ftp://x")
    assert result.exit_code == 1
    assert "--address must look like http://127.0.0.1:8265, not 'ftp://x'" in result.output


def test_the_address_may_leave_out_http() -> None:
    with answering(SERVING) as rest:
        assert headrace("status", "-a", rest.address.removeprefix("http://")).exit_code == 0


def test_a_token_from_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REST_TOKEN", "s3cret")
    with answering(SERVING) as rest:
        headrace("status", "-a", rest.address)
    assert rest.headers[0]["Authorization"] == "Bearer s3cret"


CONFIG = """\
applications:
- name: text
  import_path: text_app:build
  args: {model: small}
  runtime_env: {working_dir: code}
  deployments:
  - name: Sentiment
    num_replicas: 2
"""


def test_deploy_sends_the_config_and_waits_until_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(CONFIG)
    stages = [
        details(application("text", deployment("Sentiment", 0, 2), status="DEPLOYING")),
        details(application("text", deployment("Sentiment", 1, 2), status="DEPLOYING")),
        details(application("text", deployment("Sentiment", 2, 2))),
    ]
    with answering(details(), *stages) as rest:
        result = headrace("deploy", str(file), "-a", rest.address)
    assert result.exit_code == 0
    sent = rest.put()
    assert sent["applications"][0]["args"] == {"model": "small"}
    assert sent["applications"][0]["deployments"] == [{"name": "Sentiment", "num_replicas": 2}]
    assert [line for line in result.output.splitlines() if "replicas running" in line] == [
        "Sentiment: 0/2 replicas running",
        "Sentiment: 1/2 replicas running",
        "Sentiment: 2/2 replicas running",
    ]


def test_folders_in_a_config_file_are_meant_from_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(CONFIG)
    with answering(details()) as rest:
        headrace("deploy", str(file), "-a", rest.address, "--no-wait")
    assert rest.put()["applications"][0]["runtime_env"]["working_dir"] == str(tmp_path / "code")


def test_an_import_path_is_deployed_with_its_arguments() -> None:
    with answering(details()) as rest:
        headrace(
            "deploy", "a:build", "model=x=y", "-n", "text", "--route-prefix", "/t", "-a", rest.address, "--no-wait"
        )
    (application_sent,) = rest.put()["applications"]
    assert application_sent["args"] == {"model": "x=y"}
    assert (application_sent["name"], application_sent["route_prefix"]) == ("text", "/t")
    assert application_sent["runtime_env"]["working_dir"] == str(Path.cwd())


def test_deploy_fails_with_the_reason(tmp_path: Path) -> None:
    failed = details(application("default", deployment("M", 0, 1), status="DEPLOY_FAILED", message="no weights"))
    with answering(failed) as rest:
        result = headrace("deploy", "a:b", "-a", rest.address)
    assert result.exit_code == 1
    assert "The deployment failed: application 'default': no weights" in result.output


def test_what_the_rest_api_refuses_is_told() -> None:
    with answering(details()) as rest:
        rest.to_put = (
            400,
            {"error": "x; y", "problems": [{"field": "a", "reason": "x"}, {"field": "b", "reason": "y"}]},
        )
        result = headrace("deploy", "a:b", "-a", rest.address)
    assert result.exit_code == 1
    assert "a: x\nb: y" in result.output


def test_warnings_of_the_rest_api_are_shown() -> None:
    with answering(details()) as rest:
        rest.to_put = (200, {"warnings": ["http_options.port is ignored"]})
        result = headrace("deploy", "a:b", "-a", rest.address, "--no-wait")
    assert result.exit_code == 0
    assert "Note: http_options.port is ignored" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["deploy", "serve.yaml"], "there is no file 'serve.yaml'"),
        (["deploy", "app"], "import_path: must be 'module:application', not 'app'"),
        (["deploy", "a:b", "x"], "an argument of the application must be KEY=VALUE, not 'x'"),
        (["deploy", "a:b", "x=1", "x=2"], "the argument 'x' is given twice"),
        (["deploy", "a:b", "--route-prefix", "x"], "route_prefix: must start with '/'"),
        (["deploy", "a:b", "--app-dir", "/nowhere"], "--app-dir: there is no folder '/nowhere'"),
        (["run", "a:b", "--reload", "--non-blocking"], "--reload watches until Ctrl-C"),
        (["run", "a:b", "--working-dir", "/nowhere"], "--working-dir: cannot change to '/nowhere'"),
        (["run", "no_such_module_anywhere:b"], "there is no module 'no_such_module_anywhere'"),
    ],
)
def test_mistakes_on_the_command_line_are_told(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = headrace(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_mistakes_in_a_config_file_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(CONFIG.replace("num_replicas", "num_replica"))
    result = headrace("deploy", str(file))
    assert result.exit_code == 1
    assert f"{file}:8: applications[0].deployments[0].num_replica: no such option" in result.output.replace("\n", "")


def test_http_addresses_are_those_that_a_browser_takes() -> None:
    wide = details(application("a", deployment("D")), http={"host": "0.0.0.0", "port": 80, "ssl_certfile": "c.pem"})
    with answering(wide) as rest:
        assert "https://127.0.0.1:80/" in headrace("status", "-a", rest.address, "-o", "table").output


def write_application(folder: Path) -> None:
    (folder / "shop.py").write_text(
        "import headrace as serve\n"
        "@serve.deployment(num_replicas=3, user_config={'text': 'one\\ntwo'}, ray_actor_options={'num_cpus': 0.5})\n"
        "class Model:\n"
        "    def reconfigure(self, config): pass\n"
        "@serve.deployment\n"
        "class Front:\n"
        "    def __init__(self, model): pass\n"
        "app = Front.bind(Model.bind())\n"
    )


def built(folder: Path, *more: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "build", *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_build_writes_a_config_with_the_options_that_the_code_gives(tmp_path: Path) -> None:
    write_application(tmp_path)
    built(tmp_path, "shop:app", "-o", "serve.yaml")
    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert application["import_path"] == "shop:app"
    assert application["route_prefix"] == "/"
    model = next(d for d in application["deployments"] if d["name"] == "Model")
    assert model == {
        "name": "Model",
        "num_replicas": 3,
        "user_config": {"text": "one\ntwo"},
        "ray_actor_options": {"num_cpus": 0.5},
    }
    assert next(d for d in application["deployments"] if d["name"] == "Front") == {"name": "Front", "num_replicas": 1}


def test_what_build_writes_can_be_deployed(tmp_path: Path) -> None:
    from headrace.config import load_config

    write_application(tmp_path)
    text = built(tmp_path, "shop:app", "shop.app").stdout
    first, second = load_config(text).applications
    assert (first.name, first.route_prefix, second.name, second.route_prefix) == ("app1", "/app1", "app2", "/app2")
