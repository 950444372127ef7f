"""Replicas whose machine the controller cannot reach for a while: their callers may reach it all the same."""

from __future__ import annotations

from headrace.controller.replica_machine import Replica

from .conftest import Instance, until
from .fakes import FakeReplica, application, deployment


def cut_off(instance: Instance) -> FakeReplica:
    """Nobody gets to the only replica any more."""
    [replica] = instance.engine.alive.values()
    for listener in replica.listeners:
        listener.close()
    for end in ("sock", "vitals"):
        (instance.folder / str(replica.process.listen)).with_suffix(f".{end}").unlink()
    replica.listeners.clear()
    return replica


def as_the_controller_sees_it(instance: Instance) -> Replica:
    manager = instance.controller.applications.manager("app", "Model")
    assert manager is not None
    [runner] = manager.runners.values()
    return runner.replica


async def test_one_that_serves_is_kept_until_health_checks_give_it_up(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(health_check_period_s=0.5))])
    await instance.until_status("HEALTHY")
    replica = cut_off(instance)
    await until(lambda: as_the_controller_sees_it(instance).health_failures == 1)
    assert [target.replica_id for target in instance.targets().replicas] == [replica.replica_id]
    await replica.serve()
    await until(lambda: as_the_controller_sees_it(instance).health_failures == 0)
    assert instance.engine.started == [replica]


async def test_one_that_stays_out_of_reach_is_replaced(instance: Instance) -> None:
    instance.controller.deploy([application(deployment())])
    await instance.until_status("HEALTHY")
    replica = cut_off(instance)
    await until(lambda: len(instance.engine.started) == 2)
    assert replica.process.name not in instance.engine.alive
    await instance.until_status("HEALTHY")


async def test_a_constructor_goes_on_while_its_machine_is_out_of_reach(instance: Instance) -> None:
    instance.controller.deploy([application(deployment(code=b"slow"))])
    await until(lambda: instance.engine.started and instance.engine.started[0].phase == "initializing")
    replica = cut_off(instance)
    replica.release.set()
    await until(lambda: replica.phase == "running")
    assert instance.status().status == "UPDATING"
    await replica.serve()
    await instance.until_status("HEALTHY")
    assert instance.engine.started == [replica] and replica.initialized == 1
