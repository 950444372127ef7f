"""What dies on a cluster, and what goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from tests.engine.ray.applications import Where
from tests.engine.ray.conftest import Machines, answers, get, kill, until

import headrace as serve
from headrace import client as driver

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]
pytest.importorskip("ray")


@contextmanager
def asking(record: object) -> Iterator[list[str | None]]:
    """Ask a machine's proxy all the time; the answers, None for each that failed."""
    said: list[str | None] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            said.append(answers(record))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield said
    finally:
        end.set()
        thread.join()


def test_a_killed_replica_is_replaced(instance: driver.Client, machines: Machines) -> None:
    handle = serve.run(Where.bind())
    _, pid = handle.remote().result(timeout_s=30).split()
    kill(int(pid))
    until(lambda: handle.options(retryable=True).remote().result(timeout_s=30).split()[1] != pid)


def test_requests_go_on_without_a_controller_and_the_next_one_keeps_the_replicas(
    instance: driver.Client, machines: Machines
) -> None:
    serve.run(Where.options(num_replicas=2).bind())
    record = machines.here()
    before = machines.processes()
    controller = machines.actor_pid("controller")
    with asking(record) as said:
        until(lambda: len(said) > 20)
        kill(controller)
        until(lambda: machines.actor_pid("controller") != controller, "another controller")
        until(lambda: instance.status().applications[0].status == "RUNNING")
    assert None not in said
    assert machines.processes() == before


def test_a_killed_agent_comes_back_to_the_root_that_it_had(instance: driver.Client, machines: Machines) -> None:
    serve.run(Where.bind())
    record = machines.here()
    before, name = machines.processes(), f"agent:{record.node}"
    agent = machines.actor_pid(name)
    with asking(record) as said:
        until(lambda: len(said) > 20)
        kill(agent)
        until(lambda: machines.actor_pid(name) != agent, "another agent")
        # It does its work: a killed replica is cleaned up after, and replaced.
        until(lambda: len(said) > 100)
    assert None not in said
    assert machines.here() == record
    assert machines.processes() == before


def test_a_killed_root_is_replaced_and_the_replicas_stay(instance: driver.Client, machines: Machines) -> None:
    serve.run(Where.options(num_replicas=2).bind())
    record = machines.here()
    before = machines.processes()
    kill(record.root_pid)
    until(lambda: machines.records()[record.node].root_pid != record.root_pid, "another root")
    now = machines.here()
    assert (now.http, now.gate, now.rest) == (record.http, record.gate, record.rest)
    until(lambda: get(record))
    assert machines.processes() == before
    assert {int(until(lambda: get(record)).split()[1]) for _ in range(40)} == {p.info.pid for p in before.values()}


def test_what_ran_on_a_dead_machine_runs_elsewhere(three: Machines) -> None:
    doomed = three.add(resources={"worker": 4})
    until(lambda: doomed.node_id in three.records())
    serve.run(Where.options(num_replicas=3, ray_actor_options={"num_cpus": 0.1, "resources": {"worker": 3}}).bind())
    head = three.here()
    with asking(head) as said:
        until(lambda: len({text.split()[0] for text in said if text}) == 3, "all three machines have answered")
        three.add(resources={"worker": 4})
        three.remove(doomed)
        at_death = len(said)
        until(
            lambda: (
                {p.info.node for p in three.processes().values()} <= three.records().keys()
                and len(three.processes()) == 3
            ),
            "a replica in place of the lost one",
        )
        until(lambda: len({text.split()[0] for text in said[at_death:] if text} & three.records().keys()) == 3)
    # Requests that may be sent again are; HTTP GET is one of those.
    assert said.count(None) <= 1, f"{said.count(None)} of {len(said)} requests failed"


def test_what_a_dead_machine_had_started_is_gone(three: Machines) -> None:
    doomed = three.add()
    record = until(lambda: three.records()[doomed.node_id])
    root = psutil.Process(record.root_pid)
    three.remove(doomed)
    until(lambda: not root.is_running() or root.status() == psutil.STATUS_ZOMBIE, "its root has ended")
    until(lambda: not [path for path in three.sessions.glob("*") if str(path) == record.session_dir])


def test_what_has_no_place_starts_when_a_machine_joins(instance: driver.Client, machines: Machines) -> None:
    options = {"num_cpus": 0.1, "resources": {"rare": 1}}
    serve.run_many(
        [serve.RunTarget(Where.options(ray_actor_options=options).bind())], wait_for_applications_running=False
    )
    until(lambda: "rare" in str(instance.status()), "the status names what is missing")
    machines.add(resources={"rare": 1})
    until(lambda: instance.status().applications[0].status == "RUNNING")


def test_state_and_replicas_survive_the_machine_of_the_controller(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.engine.ray import cluster

    serve.shutdown()
    until(machines.nothing_is_left)
    able = {node.node_id: node for node in (machines.add(resources={"able": 1}) for _ in range(2))}
    usual = cluster.actor_options

    def not_on_the_head(nodes: list[dict[str, Any]]) -> dict[str, Any]:
        return {**usual(nodes), "label_selector": None, "fallback_strategy": None, "resources": {"able": 0.1}}

    monkeypatch.setattr(cluster, "actor_options", not_on_the_head)
    serve.start(engine="ray", http_options={"port": 0}, rest_options={"port": 0})
    try:
        here = {"num_cpus": 0.1, "resources": {"node:__internal_head__": 0.1}}
        serve.run(Where.options(num_replicas=2, ray_actor_options=here).bind(), name="kept")
        doomed = able[str(controller_node())]
        before, record = machines.processes(), machines.here()
        with asking(record) as said:
            until(lambda: len(said) > 20)
            machines.remove(doomed)
            until(lambda: controller_node() in able.keys() - {doomed.node_id}, "the controller is elsewhere")
            until(lambda: [a.status for a in driver.find().status().applications] == ["RUNNING"])
        assert None not in said
        assert machines.processes() == before
        serve.run(Where.options(num_replicas=1, ray_actor_options=here).bind(), name="kept")
        until(lambda: len(machines.processes()) == 1)
    finally:
        serve.shutdown()
    until(machines.nothing_is_left)
    machines.remove_all_added()


def controller_node() -> str | None:
    from headrace.engine.ray import kv
    from headrace.engine.ray.records import CONTROLLER, ControllerRecord

    record = kv.get_record(CONTROLLER, ControllerRecord)
    return record.node if record is not None else None


def test_the_controller_comes_back_to_the_head(three: Machines) -> None:
    for _ in range(2):
        assert until(controller_node) == three.head.node_id
        before = three.actor_pid("controller")
        kill(before)
        until(lambda before=before: three.actor_pid("controller") != before, "another controller")
        until(lambda: driver.find().status())
