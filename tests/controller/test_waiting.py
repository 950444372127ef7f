"""Replicas that the engine has no place for yet: they wait, are told of, and need no deadline."""

from __future__ import annotations

from headrace.controller import replica_runner

from .conftest import Instance, until
from .fakes import application, deployment

LACK = "it needs a GPU; no node has one"


async def test_a_replica_that_waits_for_its_place_says_for_what_and_starts_when_there_is_one(
    instance: Instance,
) -> None:
    instance.engine.lacking = LACK
    instance.controller.deploy([application(deployment(num_replicas=2))])
    status = await until(lambda: LACK in instance.status().message and instance.status())
    assert status.status == "UPDATING" and "Waiting for resources" in status.message
    assert [(r.state, r.node, r.pid) for r in status.replicas] == [("STARTING", "", None)] * 2
    assert all(r.message == f"waiting for resources: {LACK}" for r in status.replicas)
    instance.engine.make_room()
    status = await instance.until_status("HEALTHY")
    assert [(r.state, r.node, r.message) for r in status.replicas] == [("RUNNING", "here", "")] * 2


async def test_waiting_counts_as_no_failure_however_long_it_takes(instance: Instance) -> None:
    instance.engine.lacking = LACK
    instance.controller.deploy([application(deployment())])
    first = await until(lambda: instance.engine.to_be_started and list(instance.engine.to_be_started))
    polls = 0

    def waiting(name: str) -> str | None:
        nonlocal polls
        polls += 1
        return f"{LACK} ({polls})"

    instance.engine.waiting = waiting  # type: ignore[method-assign]
    await until(lambda: f"({4})" in instance.status().message)
    assert list(instance.engine.to_be_started) == first
    instance.engine.make_room()
    await instance.until_status("HEALTHY")


async def test_a_replica_that_still_waits_is_gone_at_once_when_nothing_wants_it(instance: Instance) -> None:
    instance.engine.lacking = LACK
    instance.controller.deploy([application(deployment())])
    await until(lambda: instance.engine.to_be_started)
    instance.controller.delete(["app"])
    await until(lambda: not instance.controller.applications.by_name, timeout_s=replica_runner.TERM_GRACE_S / 2)
    assert not instance.engine.started and not instance.engine.to_be_started


async def test_an_update_that_finds_no_room_beside_the_old_version_takes_its_place(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    old = list(instance.engine.serving)
    instance.engine.lacking = LACK
    instance.controller.deploy([application(deployment(num_replicas=2, version="v2"))])
    # The first of the old ones goes; here nobody gives its room to those who wait.
    await until(lambda: any(replica.drained for replica in old))
    assert not all(replica.drained for replica in old)
    instance.engine.make_room()
    await instance.until_status("HEALTHY")
    assert {r.process.args["version"] for r in instance.engine.serving} == {"v2"}


async def test_routers_are_told_where_replicas_run(instance: Instance) -> None:
    instance.controller.deploy([application(deployment())])
    await instance.until_status("HEALTHY")
    [info] = await instance.engine.list()
    [target] = instance.targets().replicas
    assert (target.address, target.node, target.zone, target.socket) == (info.address, "here", "", info.listen)


async def test_metrics_tell_of_nodes_and_of_the_replicas_on_them(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    text = (await instance.controller.metrics.scrape()).decode()
    assert 'ray_serve_nodes{state="ALIVE"} 1' in text and 'ray_serve_nodes{state="LOST"} 0' in text
    assert 'ray_serve_node_replicas{application="app",deployment="Model",node="here"} 2' in text
