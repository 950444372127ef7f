"""Applications on a cluster: on which machines they run and answer, and how their number changes."""

from __future__ import annotations

import pytest
from tests.engine.ray.applications import Front, Where
from tests.engine.ray.conftest import Machines, get, until

import headrace as serve
from headrace import client as driver

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
pytest.importorskip("ray")


def replicas(deployment: str, app: str = "default") -> list[object]:
    [found] = [a for a in driver.find().status().applications if a.name == app]
    [only] = [d for d in found.deployments if d.name == deployment]
    return [replica for replica in only.replicas if replica.state == "RUNNING"]


def test_an_application_answers_over_handles_and_http(instance: driver.Client, machines: Machines) -> None:
    handle = serve.run(Where.bind())
    node, pid = handle.remote().result(timeout_s=30).split()
    record = machines.here()
    assert get(record).split() == [node, pid]
    assert node == record.node


def test_every_machine_serves_every_application(three: Machines) -> None:
    serve.run(Front.bind(Where.bind()))
    for record in three.records().values():
        assert " asked " in until(lambda record=record: get(record))


def test_replicas_on_different_machines_call_each_other(three: Machines) -> None:
    behind = Where.options(num_replicas=2, ray_actor_options={"resources": {"worker": 3}}).bind()
    handle = serve.run(Front.options(ray_actor_options={"resources": {"node:__internal_head__": 0.1}}).bind(behind))
    said = {handle.remote().result(timeout_s=30) for _ in range(40)}
    asking = {text.split(" asked ")[0] for text in said}
    asked = {text.split(" asked ")[1].split()[0] for text in said}
    assert len(asking) == 1
    assert len(asked) == 2
    assert not asked & asking


def test_replicas_come_and_go_with_their_number(instance: driver.Client, machines: Machines) -> None:
    for wanted in (1, 4, 2):
        serve.run(Where.options(num_replicas=wanted).bind())
        until(lambda wanted=wanted: len(machines.processes()) == wanted, f"{wanted} replicas")


def test_a_new_version_replaces_the_old_one_without_a_failed_request(
    instance: driver.Client, machines: Machines
) -> None:
    handle = serve.run(Where.bind())
    before = handle.remote().result(timeout_s=30)
    serve.run(Where.options(user_config=None, ray_actor_options={"num_cpus": 0.2}).bind())
    assert handle.remote().result(timeout_s=30) != before


def test_no_more_replicas_run_on_a_machine_than_are_allowed(three: Machines) -> None:
    serve.run(Where.options(num_replicas=3, max_replicas_per_node=1).bind())
    assert len({process.info.node for process in three.processes().values()}) == 3


def test_environment_variables_reach_the_replica(instance: driver.Client) -> None:
    options = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"COLOUR": "green"}}}
    handle = serve.run(Where.options(ray_actor_options=options).bind())
    assert handle.environment.remote("COLOUR").result(timeout_s=30) == "green"
