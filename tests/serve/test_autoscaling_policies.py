"""Policies of the user's decide on numbers of replicas, and whatever becomes of them hurts nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.requests import Request

import headrace as serve
from headrace import client as driver
from headrace.config import AutoscalingContext, AutoscalingPolicy
from headrace.exceptions import ConfigError

from . import policies
from .conditions import deployment, ids, running, until
from .policy_apps import QUICK


@serve.deployment
class Light:
    async def __call__(self, request: Request) -> str:
        return "here"


class Teller:
    """What a `Told` policy goes by, and what it has noted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.say("want 1")

    def say(self, command: str) -> None:
        policies.write(self.file, command)

    @property
    def pids(self) -> list[int]:
        """The processes that the policy has had."""
        noted = Path(f"{self.file}.pids")
        return [int(pid) for pid in noted.read_text().split()] if noted.exists() else []

    @property
    def calls(self) -> tuple[int, int]:
        """How often it was called: this instance of it, and by its state."""
        noted = Path(f"{self.file}.calls")
        of_instance, by_state = (noted.read_text() if noted.exists() else "0 0").split()
        return int(of_instance), int(by_state)

    def config(self, **options: Any) -> dict[str, Any]:
        policy = AutoscalingPolicy(policy_function=policies.Told, policy_kwargs={"file": str(self.file)})
        return {**QUICK, "policy": policy, **options}


@pytest.fixture
def teller(tmp_path: Path) -> Teller:
    return Teller(tmp_path / "told")


def settled(name: str, replicas: int, app: str = "default") -> bool:
    status = deployment(name, app)
    return status.status == "HEALTHY" and status.replica_states == ({"RUNNING": replicas} if replicas else {})


def reason(name: str) -> str:
    found = deployment(name).autoscaling
    assert found is not None
    return found.reason


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_policy_decides_within_the_bounds(http: httpx.Client, instance: driver.Client, teller: Teller) -> None:
    serve.run(Light.options(autoscaling_config=teller.config(min_replicas=1, max_replicas=3)).bind())
    teller.say("want 1.2")
    until(lambda: settled("Light", 2))
    teller.say("want 100")
    until(lambda: settled("Light", 3))
    teller.say("want -5")
    until(lambda: settled("Light", 1))
    assert "policy serve.policies:Told asks for" in reason("Light")
    details = httpx.get(f"{instance.rest_url}/api/serve/applications/").json()["applications"]["default"]
    decisions = details["deployments"]["Light"]["autoscaling_detail"]["decisions"]
    assert {decision["policy"] for decision in decisions} == {"serve.policies:Told"}


def test_a_policy_may_be_defined_on_the_spot(http: httpx.Client) -> None:
    def two(ctx: AutoscalingContext) -> int:
        return 2

    serve.run(Light.options(autoscaling_config={**QUICK, "policy": AutoscalingPolicy(policy_function=two)}).bind())
    until(lambda: settled("Light", 2))


def test_what_a_policy_is_told_and_where_it_runs(http: httpx.Client, instance: driver.Client, tmp_path: Path) -> None:
    file = tmp_path / "seen"
    environment = {"env_vars": {"OF_POLICY": "yes", "SEEN_FILE": str(file)}, "working_dir": str(tmp_path)}
    config = {**QUICK, "min_replicas": 1, "initial_replicas": 2, "policy": {"policy_function": "serve.policies:see"}}
    serve.run(Light.options(autoscaling_config=config, ray_actor_options={"runtime_env": environment}).bind())
    until(lambda: file.exists() and json.loads(file.read_text())["current_num_replicas"] == 2)
    seen = json.loads(file.read_text())
    assert {replica["unique_id"] for replica in seen["running_replicas"]} == ids("Light")
    assert seen["deployment_id"] == {"name": "Light", "app_name": "default"}
    assert (seen["deployment_name"], seen["app_name"]) == ("Light", "default")
    assert (seen["target_num_replicas"], seen["total_num_requests"], seen["total_queued_requests"]) == (2, 0, 0)
    assert (seen["capacity_adjusted_min_replicas"], seen["capacity_adjusted_max_replicas"]) == (1, 4)
    assert time.time() - 60 < seen["current_time"] <= time.time()
    assert (seen["last_scale_up_time"], seen["last_scale_down_time"]) == (None, None)
    assert seen["config"]["initial_replicas"] == 2
    assert (seen["cwd"], seen["of_environment"]) == (str(tmp_path), "yes")
    others = {replica.pid for replica in running("Light")} | {instance.status().controller_pid, os.getpid()}
    assert seen["pid"] not in others


def test_a_policy_is_told_what_replicas_tell_of_themselves(http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "seen"

    @serve.deployment
    class Telling:
        def record_autoscaling_stats(self) -> dict[str, float]:
            return {"temperature": 36.5}

        async def __call__(self, request: Request) -> str:
            return "here"

    def hottest(ctx: AutoscalingContext) -> int:
        values = ctx.aggregated_metrics.get("temperature", {})
        series = ctx.raw_metrics.get("temperature", {})
        told = [(replica.unique_id, value, series[replica][-1].value) for replica, value in values.items()]
        policies.write(file, json.dumps(told))
        return 1

    policy = AutoscalingPolicy(policy_function=hottest)
    serve.run(Telling.options(autoscaling_config={**QUICK, "policy": policy}).bind())
    (replica,) = ids("Telling")
    until(lambda: file.exists() and json.loads(file.read_text()) == [[replica, 36.5, 36.5]])


def test_a_policy_that_raises_leaves_the_last_target(
    http: httpx.Client, instance: driver.Client, teller: Teller
) -> None:
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    teller.say("want 2")
    until(lambda: settled("Light", 2))
    teller.say("raise")
    until(lambda: "raised ValueError: no such metric; the last target stays" in reason("Light"))
    status = deployment("Light")
    assert status.target_num_replicas == 2 and status.status == "HEALTHY"
    assert status.message.startswith("2 replicas stay, since the autoscaling policy serve.policies:Told raised ")
    assert "policies.py" in status.message and "policy_process.py" not in status.message
    details = httpx.get(f"{instance.rest_url}/api/serve/applications/").json()["applications"]["default"]
    assert "no such metric" in details["deployments"]["Light"]["autoscaling_detail"]["errors"][0]
    assert http.get("/").text == "here"
    teller.say("want 3")
    until(lambda: settled("Light", 3))
    assert deployment("Light").message == "" and len(set(teller.pids)) == 1


def test_what_a_policy_raises_at_length_is_cut(http: httpx.Client, teller: Teller) -> None:
    teller.say("shout")
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    until(lambda: "raised ValueError: aaa" in reason("Light"))
    assert len(reason("Light")) < 1_000
    found = deployment("Light")
    assert found.autoscaling is not None and len(found.autoscaling.policy_problem or "") < 11_000
    assert len(found.message) < 11_000 and http.get("/").text == "here"


@pytest.mark.parametrize("nonsense", ['"three"', "null", "{}", "[1, 2, 3]", "NaN", "true"])
def test_a_policy_that_returns_nonsense_leaves_the_last_target(
    http: httpx.Client, teller: Teller, nonsense: str
) -> None:
    teller.say(f"return {nonsense}")
    serve.run(Light.options(autoscaling_config=teller.config(initial_replicas=2)).bind())
    until(lambda: "must return a " in reason("Light"))
    assert deployment("Light").target_num_replicas == 2 and http.get("/").text == "here"


def test_a_policy_that_blocks_holds_up_nothing_else(http: httpx.Client, tmp_path: Path) -> None:
    blocked, other = Teller(tmp_path / "blocked"), Teller(tmp_path / "other")
    blocked.say("block")
    serve.run(Light.options(autoscaling_config=blocked.config(min_replicas=0, initial_replicas=2)).bind())
    serve.run(Light.options(name="Other", autoscaling_config=other.config()).bind(), name="other", route_prefix="/o")
    until(lambda: "has not answered for 5 s; the last target stays" in reason("Light"))
    assert deployment("Light").target_num_replicas == 2
    assert "has not answered for 5 s" in deployment("Light").message
    other.say("want 3")
    until(lambda: settled("Other", 3, "other"))
    assert (http.get("/").text, http.get("/o").text) == ("here", "here")
    blocked.say("want 3")  # what it answers in the end counts
    until(lambda: settled("Light", 3))


def test_a_request_wakes_a_deployment_whose_policy_blocks(http: httpx.Client, teller: Teller) -> None:
    teller.say("block")
    serve.run(Light.options(autoscaling_config=teller.config(min_replicas=0)).bind())
    assert deployment("Light").replicas == []
    assert http.get("/").text == "here"
    teller.say("want 0")


@pytest.mark.parametrize("death", ["exit", "kill"])
def test_a_policy_that_ends_its_process_gets_another(http: httpx.Client, teller: Teller, death: str) -> None:
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    teller.say("want 2")
    until(lambda: settled("Light", 2))
    teller.say(death)
    until(lambda: "is gone: its process" in reason("Light"))
    assert deployment("Light").target_num_replicas == 2 and http.get("/").text == "here"
    teller.say("want 3")
    until(lambda: settled("Light", 3))
    assert len(set(teller.pids)) == 2
    of_instance, by_state = teller.calls
    assert by_state > of_instance, "its state outlives its process"


def test_a_policy_whose_process_is_killed_goes_on_in_another(http: httpx.Client, teller: Teller) -> None:
    serve.run(Light.options(autoscaling_config=teller.config(metrics_interval_s=600)).bind())
    until(lambda: teller.pids)
    until(lambda: "asks for 1" in reason("Light"))
    os.kill(teller.pids[0], signal.SIGKILL)
    until(lambda: len(teller.pids) == 2)
    assert not alive(teller.pids[0])


def test_a_policy_whose_process_is_stopped_is_told_of_and_goes_on(http: httpx.Client, teller: Teller) -> None:
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    until(lambda: "asks for 1" in reason("Light"))
    (pid,) = teller.pids
    os.kill(pid, signal.SIGSTOP)
    until(lambda: "has not answered" in reason("Light"))
    assert http.get("/").text == "here"
    os.kill(pid, signal.SIGCONT)
    teller.say("want 2")
    until(lambda: settled("Light", 2))
    assert teller.pids == [pid]


def test_a_policy_that_cannot_be_made_is_tried_again(http: httpx.Client, teller: Teller) -> None:
    teller.say("refuse")
    serve.run(Light.options(autoscaling_config=teller.config(initial_replicas=2)).bind())
    until(lambda: "could not be loaded: it raised RuntimeError: no connection to the queue" in reason("Light"))
    assert settled("Light", 2) and http.get("/").text == "here"
    teller.say("want 3")
    until(lambda: settled("Light", 3))


def test_a_controller_that_starts_again_finds_the_policy(
    http: httpx.Client, instance: driver.Client, teller: Teller
) -> None:
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    teller.say("want 3")
    until(lambda: settled("Light", 3))
    before = ids("Light")
    controller = instance.status().controller_pid
    os.kill(controller, signal.SIGKILL)
    until(lambda: instance.status().controller_pid != controller)
    assert deployment("Light").target_num_replicas == 3
    until(lambda: "asks for 3" in reason("Light"))
    assert ids("Light") == before
    (pid,) = teller.pids
    assert alive(pid)
    calls = teller.calls
    until(lambda: teller.calls[0] > calls[0])
    assert teller.calls[0] == teller.calls[1], "what it has learnt is still there"
    teller.say("want 1")
    until(lambda: settled("Light", 1))


def test_the_same_policy_goes_on_over_a_deploy_and_another_takes_its_place(
    http: httpx.Client, tmp_path: Path, teller: Teller
) -> None:
    serve.run(Light.options(autoscaling_config=teller.config()).bind())
    until(lambda: teller.pids)
    serve.run(Light.options(autoscaling_config=teller.config(max_replicas=3)).bind())
    teller.say("want 3")
    until(lambda: settled("Light", 3))
    (first,) = teller.pids
    replicas = ids("Light")
    other = Teller(tmp_path / "other")
    other.say("want 2")
    serve.run(Light.options(autoscaling_config=other.config()).bind())
    until(lambda: settled("Light", 2))
    assert ids("Light") < replicas, "no replica restarts for a policy"
    until(lambda: not alive(first))
    serve.delete("default")
    until(lambda: not alive(other.pids[0]))


def test_a_policy_runs_as_it_was_deployed(http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "import os\ndef policy(ctx):\n    open({file!r}, 'a').write(f'{{os.getpid()}} {word}\\n')\n    return {count}\n"
    )
    noted = tmp_path / "noted"
    module = tmp_path / "policy_of_release.py"
    module.write_text(source.format(file=str(noted), word="red", count=2))
    sys.modules.pop("policy_of_release", None)
    invalidate_caches()
    policy = import_module("policy_of_release").policy
    serve.run(Light.options(autoscaling_config={**QUICK, "policy": {"policy_function": policy}}).bind())
    until(lambda: settled("Light", 2))
    pid, word = noted.read_text().splitlines()[-1].split()
    module.write_text(source.format(file=str(noted), word="sorrowful", count=3))
    os.kill(int(pid), signal.SIGKILL)
    until(lambda: noted.read_text().splitlines()[-1].split()[0] != pid)
    assert noted.read_text().splitlines()[-1].split()[1] == word == "red"
    assert settled("Light", 2)


def test_delays_apply_to_what_a_policy_wants(http: httpx.Client, teller: Teller) -> None:
    serve.run(Light.options(autoscaling_config=teller.config(upscale_delay_s=600)).bind())
    teller.say("want 3")
    until(lambda: "asks for 3; waits for upscale_delay_s=600 s" in reason("Light"))
    assert deployment("Light").target_num_replicas == 1
    serve.run(Light.options(autoscaling_config=teller.config(upscale_delay_s=0)).bind())
    until(lambda: settled("Light", 3))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("serve.policies:sea", "there is no 'sea' in 'serve.policies'; did you mean 'see'?"),
        ("no_such_module:policy", "cannot import 'no_such_module:policy': ModuleNotFoundError"),
        ("serve.policy_apps:QUICK", "must be a function or a class"),
    ],
)
def test_a_policy_that_is_none_is_refused(path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve.run(Light.options(autoscaling_config={"policy": {"policy_function": path}}).bind())
    assert said in str(caught.value) and "autoscaling_config.policy.policy_function" in str(caught.value)


# Policies of whole applications.


@pytest.fixture
def of_application(http: httpx.Client, instance: driver.Client, tmp_path: Path) -> Iterator[Teller]:
    told = Teller(tmp_path / "told")
    told.say("1")
    config = {
        "import_path": "serve.policy_apps:app",
        "runtime_env": {"working_dir": str(Path(__file__).parents[1]), "env_vars": {"TOLD_FILE": str(told.file)}},
        "autoscaling_policy": {"policy_function": "serve.policies:second_follows_first"},
    }
    answer = httpx.put(f"{instance.rest_url}/api/serve/applications/", json={"applications": [config]})
    assert answer.status_code == 200, answer.text
    until(lambda: any(a.status == "RUNNING" for a in instance.status().applications))
    yield told


def test_an_applications_policy_decides_for_all_of_its_deployments(of_application: Teller) -> None:
    of_application.say("3")
    until(lambda: settled("First", 3) and settled("Second", 3))
    assert "the application's policy serve.policies:second_follows_first asks for 3" in reason("Second")
    of_application.say("first alone")
    until(lambda: settled("First", 1))
    assert "says nothing of this deployment; the last target stays" in reason("Second")
    assert settled("Second", 3)


def test_an_applications_policy_that_fails_leaves_all_targets(of_application: Teller, http: httpx.Client) -> None:
    of_application.say("2")
    until(lambda: settled("First", 2) and settled("Second", 2))
    of_application.say("raise")
    until(lambda: all("raised ValueError" in reason(name) for name in ("First", "Second")))
    of_application.say("strange")
    until(lambda: "which it was not asked for; it was asked for" in reason("First"))
    assert settled("First", 2) and settled("Second", 2) and http.get("/").text == "second"
    of_application.say("1")
    until(lambda: settled("First", 1) and settled("Second", 1))
    assert int(Path(f"{of_application.file}.calls").read_text()) > 1
