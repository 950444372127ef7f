"""Machines that are to go: what runs there is replaced elsewhere first, and then drained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.controller.history import History
from headrace.controller.reconcile import Desired, Observed, Start, Stop, Verdict, plan
from headrace.controller.replica_machine import Phase

from .conftest import Instance, until
from .fakes import application, deployment


def running(number: int, leaving: bool) -> Observed:
    return Observed(f"r{number}", "v", "c", Phase.RUNNING, float(number), leaving=leaving)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_as_many_start_at_once_as_leave_and_none_goes_before_they_run(leaving: list[bool]) -> None:
    replicas = [running(number, leaves) for number, leaves in enumerate(leaving)]
    made = plan(Desired("v", "c", len(replicas)), replicas, History(settled=True), 0.0)
    assert made.actions == ((Start("v", sum(leaving)),) if any(leaving) else ())
    assert made.verdict is (Verdict.CONVERGING if any(leaving) else Verdict.SETTLED)


def test_a_replica_goes_once_another_serves_in_its_place() -> None:
    replicas = [running(0, True), running(1, True), running(2, False)]
    made = plan(Desired("v", "c", 2), replicas, History(settled=True), 0.0)
    starting = [*replicas, Observed("r3", "v", "c", Phase.STARTING, 3.0)]
    assert made.actions == (Start("v", 1), Stop("r0", "its machine is to go"))
    assert plan(Desired("v", "c", 2), starting, History(settled=True), 0.0).actions == (
        Stop("r0", "its machine is to go"),
    )


async def test_what_runs_on_a_machine_that_is_to_go_is_replaced_elsewhere(instance: Instance) -> None:
    instance.engine.placed_on = "a"
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    before = {replica.replica_id for replica in instance.engine.started}
    instance.engine.placed_on = "b"
    instance.engine.log.clear()
    await instance.engine.take_away("a")
    await until(lambda: {replica.node for replica in instance.engine.alive.values()} == {"b"})
    happened = [what for what, _ in instance.engine.log]
    assert happened[:2] == ["start", "start"] and happened.count("drain") == 2
    assert before.isdisjoint(replica.replica_id for replica in instance.engine.alive.values())
    await instance.until_status("HEALTHY")


async def test_a_machine_that_stays_after_all_keeps_what_runs_there(instance: Instance) -> None:
    instance.engine.placed_on = "b"
    instance.controller.deploy([application(deployment(num_replicas=2))])
    await instance.until_status("HEALTHY")
    await instance.engine.take_away("a")
    await instance.engine.take_away()
    instance.engine.log.clear()
    instance.controller.deploy([application(deployment(num_replicas=3))])
    await until(lambda: len(instance.engine.alive) == 3)
    assert [what for what, _ in instance.engine.log if what in ("start", "drain")] == ["start"]
