"""Reconciliation, against a simulated world that fails where hypothesis wants it to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.controller.history import (
    LONGEST_RETRY_S,
    STABLE_AFTER_S,
    History,
    after_failure,
    after_running,
    after_settling,
    backoff_s,
)
from headrace.controller.reconcile import Desired, Observed, Reconfigure, Start, Stop, Verdict, plan
from headrace.controller.replica_machine import Cause, Phase


def replicas(
    count: int, version: str = "v1", phase: Phase = Phase.RUNNING, config: str = "c", size: int = 1
) -> list[Observed]:
    """So many units; with `size`, gangs of so many replicas each."""
    return [Observed(f"{version}-{i}", version, config, phase, float(i), size=size) for i in range(count)]


def desired(count: int, version: str = "v1", **more: object) -> Desired:
    return replace(Desired(version=version, config="c", num_replicas=count), **more)  # type: ignore[arg-type]


SETTLED = History(settled=True)


class World:
    """Replicas that start, run, refuse and die as they are told to; `room` is how many processes fit."""

    def __init__(self, want: Desired, running: list[Observed], history: History, room: int = 1000) -> None:
        self.want, self.history, self.room = want, history, room
        self.replicas = {r.replica_id: r for r in running}
        self.going: list[Observed] = []
        self.now, self.made = 100.0, 0
        self.bad_versions: set[str] = set()
        self.most = self.fewest_ready = self.ready
        self.verdict = Verdict.CONVERGING

    @property
    def ready(self) -> int:
        return sum(r.size for r in self.replicas.values() if r.phase is Phase.RUNNING)

    @property
    def count(self) -> int:
        return sum(r.size for r in self.replicas.values())

    def reconcile(self) -> None:
        result = plan(self.want, list(self.replicas.values()), self.history, self.now)
        self.verdict = result.verdict
        for action in result.actions:
            match action:
                case Start(version, count):
                    unit = self.want.unit if version == self.want.version else self.want.fallback_unit
                    assert count % unit == 0, "whole units"
                    for _ in range(count // unit):
                        self.start(version, unit)
                case Stop(replica_id):
                    self.going.append(self.replicas.pop(replica_id))
                case Reconfigure(replica_id):
                    self.replicas[replica_id] = replace(self.replicas[replica_id], config=self.want.config)
        if result.verdict is Verdict.SETTLED:
            self.history = after_settling(self.history)
        if result.wake_at is not None:
            assert result.wake_at > self.now
            self.now = result.wake_at
        self.most = max(self.most, self.count)
        self.fewest_ready = min(self.fewest_ready, self.ready)

    def start(self, version: str, size: int) -> None:
        if self.count + sum(r.size for r in self.going) + size > self.room:
            self.history = replace(self.history, no_room=self.history.no_room or not self.going)
            return
        self.made += 1
        name = f"made-{self.made}"
        self.replicas[name] = Observed(name, version, self.want.config, Phase.STARTING, self.now, size=size)

    def finish_a_start(self, which: int) -> None:
        starting = [r for r in self.replicas.values() if r.phase is not Phase.RUNNING]
        if not starting:
            return
        chosen = starting[which % len(starting)]
        if chosen.version in self.bad_versions:
            del self.replicas[chosen.replica_id]
            self.history = after_failure(self.history, Cause.CONSTRUCTOR, None, "ValueError", self.now)
        else:
            self.replicas[chosen.replica_id] = replace(chosen, phase=Phase.RUNNING)
            self.history = after_running(self.history)

    def settle(self, steps: int = 400) -> None:
        for turn in range(steps):
            self.reconcile()
            self.finish_a_start(turn)
            self.going.clear()
            if self.verdict is Verdict.SETTLED:
                return
            self.now += 0.01
        self.reconcile()

    def versions(self) -> set[str]:
        return {r.version for r in self.replicas.values()}


def test_a_fresh_deployment_starts_all_its_replicas_at_once() -> None:
    result = plan(desired(3), [], History(), now=0.0)
    assert result.actions == (Start("v1", 3),)
    assert result.verdict is Verdict.CONVERGING


def test_what_is_as_wanted_is_left_alone() -> None:
    result = plan(desired(3), replicas(3), SETTLED, now=0.0)
    assert (result.actions, result.verdict) == ((), Verdict.SETTLED)


def test_constructors_that_take_minutes_are_left_alone() -> None:
    result = plan(desired(2), replicas(2, phase=Phase.INITIALIZING), History(), now=100_000.0)
    assert (result.actions, result.verdict) == ((), Verdict.CONVERGING)


def test_scaling_down_stops_the_youngest_and_those_that_do_not_serve_yet_first() -> None:
    waiting = Observed("waiting", "v1", "c", Phase.STARTING, 0.5)
    result = plan(desired(1), [*replicas(2), waiting], SETTLED, now=0.0)
    assert [a.replica_id for a in result.actions if isinstance(a, Stop)] == ["waiting", "v1-1"]


def test_an_update_of_options_reconfigures_running_replicas_and_restarts_none() -> None:
    result = plan(desired(2, config="d"), replicas(2), SETTLED, now=0.0)
    assert result.actions == (Reconfigure("v1-0"), Reconfigure("v1-1"))


def test_a_config_that_replicas_refused_is_not_sent_again() -> None:
    refused = History(settled=True, reconfigure_failed=("d", "ValueError"))
    assert plan(desired(2, config="d"), replicas(2), refused, now=0.0).actions == ()


def test_a_dead_replica_is_replaced_at_once() -> None:
    history = after_failure(SETTLED, Cause.CRASH, 1.0, "killed", now=50.0)
    assert plan(desired(2), replicas(1), history, now=50.0).actions == (Start("v1", 1),)


def test_all_replicas_dying_together_are_replaced_at_once() -> None:
    history = SETTLED
    for _ in range(3):
        history = after_failure(history, Cause.CRASH, 1.0, "killed", now=50.0)
    assert plan(desired(3), [], history, now=50.0).actions == (Start("v1", 3),)


def test_a_crash_loop_backs_off_exponentially_up_to_half_a_minute() -> None:
    history, delays = SETTLED, []
    for _ in range(12):
        history = after_failure(history, Cause.CRASH, 0.1, "killed", now=50.0)
        delays.append(backoff_s(history, 1))
    assert delays[:5] == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert delays[-1] == LONGEST_RETRY_S
    result = plan(desired(1), [], history, now=50.0)
    assert (result.verdict, result.actions, result.wake_at) == (Verdict.BACKING_OFF, (), 50.0 + LONGEST_RETRY_S)


def test_a_replica_that_served_for_long_before_it_died_is_no_crash_loop() -> None:
    history = History(settled=True, crashes=9)
    assert backoff_s(after_failure(history, Cause.CRASH, STABLE_AFTER_S, "killed", 50.0), 1) == 0.0


def test_a_constructor_that_always_raises_is_given_up_after_three_tries_per_replica() -> None:
    world = World(desired(1), [], History())
    world.bad_versions = {"v1"}
    world.settle()
    assert world.verdict is Verdict.HALTED
    assert world.made == 3 and not world.replicas


def test_the_retry_limit_of_the_user_is_kept_where_it_is_lower() -> None:
    assert desired(10, max_constructor_retry_count=4).failure_limit == 4
    assert desired(10).failure_limit == 20
    assert desired(2).failure_limit == 6


def test_a_version_that_once_ran_is_retried_for_ever() -> None:
    world = World(desired(1), [], SETTLED)
    world.bad_versions = {"v1"}
    world.settle(50)
    assert world.verdict is not Verdict.HALTED and world.made > 5


def test_a_bad_new_version_stops_the_update_and_leaves_the_old_replicas_serving() -> None:
    world = World(desired(3, "v2", fallback="v1"), replicas(3), History())
    world.bad_versions = {"v2"}
    world.settle()
    assert world.verdict is Verdict.HALTED
    assert world.ready == 3 and world.fewest_ready == 3 and world.versions() == {"v1"}


def test_an_old_replica_that_dies_after_a_halted_update_is_replaced_by_the_old_version() -> None:
    halted = History(start_failures=9)
    result = plan(desired(3, "v2", fallback="v1"), replicas(2), halted, now=100.0)
    assert result.actions == (Start("v1", 1),)


def test_without_room_for_a_surge_old_replicas_go_first_one_wave_at_a_time() -> None:
    world = World(desired(5, "v2", rolling_update_percentage=0.4, fallback="v1"), replicas(5), History(), room=5)
    world.settle()
    assert world.verdict is Verdict.SETTLED and world.versions() == {"v2"}
    assert world.fewest_ready == 3, "two at a time"


def test_a_deployment_of_no_replicas_stops_all_and_settles() -> None:
    world = World(desired(0, "v2"), replicas(3), History())
    world.settle()
    assert world.verdict is Verdict.SETTLED and not world.replicas


@settings(max_examples=500, deadline=None)
@given(
    old=st.integers(0, 12),
    wanted=st.integers(0, 12),
    percentage=st.floats(0.01, 1.0),
    surge=st.integers(0, 100),
    order=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
    new_version=st.booleans(),
)
def test_every_update_ends_as_wanted_and_never_dips(
    old: int, wanted: int, percentage: float, surge: int, order: list[tuple[bool, int]], new_version: bool
) -> None:
    want = desired(
        wanted,
        "v2" if new_version else "v1",
        rolling_update_percentage=percentage,
        max_surge_percent=surge,
        fallback="v1",
    )
    world = World(want, replicas(old), History())
    for reconciles, which in order:
        if reconciles:
            world.reconcile()
        else:
            world.finish_a_start(which)
        world.fewest_ready = min(world.fewest_ready, world.ready)
    world.settle()
    assert world.verdict is Verdict.SETTLED
    assert world.ready == len(world.replicas) == wanted
    assert wanted == 0 or world.versions() == {want.version}
    assert world.fewest_ready >= min(old, wanted), "serving capacity never dips"
    assert world.most <= max(old, wanted + want.surge), "the surge is bounded"
    assert plan(want, list(world.replicas.values()), world.history, world.now).actions == ()


@settings(max_examples=300, deadline=None)
@given(old=st.integers(1, 8), wanted=st.integers(1, 8), room=st.integers(1, 12), percentage=st.floats(0.05, 1.0))
def test_updates_end_with_whatever_room_there_is(old: int, wanted: int, room: int, percentage: float) -> None:
    room = max(room, wanted)
    world = World(
        desired(wanted, "v2", rolling_update_percentage=percentage), replicas(min(old, room)), History(), room
    )
    world.settle()
    assert world.verdict is Verdict.SETTLED and world.ready == wanted and world.versions() == {"v2"}
    assert world.most <= room


@settings(max_examples=300, deadline=None)
@given(old=st.integers(1, 8), wanted=st.integers(1, 8), lucky=st.integers(0, 7))
def test_a_halted_update_keeps_serving_as_much_as_before(old: int, wanted: int, lucky: int) -> None:
    world = World(desired(wanted, "v2", fallback="v1"), replicas(old), History())
    for turn in range(400):
        world.reconcile()
        world.bad_versions = {"v2"} if turn >= lucky else set()
        world.finish_a_start(turn)
        world.now += 0.01
        if world.verdict is Verdict.SETTLED:
            return
    assert world.verdict is Verdict.HALTED
    assert world.ready == len(world.replicas) == wanted
    assert world.fewest_ready >= min(old, wanted)


@given(
    st.lists(st.tuples(st.sampled_from(Cause), st.one_of(st.none(), st.floats(0, 100))), max_size=100),
    st.integers(0, 50),
    st.booleans(),
)
def test_backoff_is_bounded(failures: list[tuple[Cause, float | None]], count: int, settled: bool) -> None:
    history = History(settled=settled)
    for cause, ran_s in failures:
        history = after_failure(history, cause, ran_s, "reason", 1.0)
    assert 0.0 <= backoff_s(history, count) <= LONGEST_RETRY_S


# Gangs.


def test_gangs_start_stop_and_are_replaced_as_one() -> None:
    wanted = desired(8, unit=4)
    assert plan(wanted, [], History(), now=0.0).actions == (Start("v1", 8),)
    assert plan(wanted, replicas(1, size=4), SETTLED, now=0.0).actions == (Start("v1", 4),)
    down = plan(desired(4, unit=4), replicas(3, size=4), SETTLED, now=0.0).actions
    assert [stop.replica_id for stop in down if isinstance(stop, Stop)] == ["v1-2", "v1-1"]


def test_an_update_adds_a_whole_gang_before_it_stops_one() -> None:
    wanted = desired(8, "v2", unit=4, rolling_update_percentage=0.1)
    assert (wanted.wave, wanted.surge) == (4, 4)
    assert plan(wanted, replicas(2, size=4), History(), now=0.0).actions == (Start("v2", 4),)


def test_a_gang_that_fails_to_start_is_given_up_after_three_tries() -> None:
    world = World(desired(4, unit=4), [], History())
    world.bad_versions = {"v1"}
    world.settle()
    assert world.verdict is Verdict.HALTED and world.made == 3


@settings(max_examples=500, deadline=None)
@given(
    old=st.integers(0, 6),
    old_size=st.integers(1, 5),
    wanted=st.integers(0, 6),
    unit=st.integers(1, 5),
    percentage=st.floats(0.01, 1.0),
    surge=st.integers(0, 100),
    order=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
def test_every_update_of_gangs_ends_as_wanted_and_never_dips(
    old: int,
    old_size: int,
    wanted: int,
    unit: int,
    percentage: float,
    surge: int,
    order: list[tuple[bool, int]],
) -> None:
    want = desired(
        wanted * unit,
        "v2",
        unit=unit,
        fallback="v1",
        fallback_unit=old_size,
        rolling_update_percentage=percentage,
        max_surge_percent=surge,
    )
    world = World(want, replicas(old, size=old_size), History())
    for reconciles, which in order:
        if reconciles:
            world.reconcile()
        else:
            world.finish_a_start(which)
        world.fewest_ready = min(world.fewest_ready, world.ready)
    world.settle()
    assert world.verdict is Verdict.SETTLED
    assert world.ready == world.count == wanted * unit
    assert wanted == 0 or world.versions() == {"v2"}
    assert world.fewest_ready >= min(old * old_size, wanted * unit), "serving capacity never dips"
    # A surge is rounded up to whole gangs, also of those that are to go, and so is what is started.
    beyond = max(want.surge, -(-old_size // unit) * unit) + unit
    assert world.most <= max(old * old_size, wanted * unit + beyond)


@settings(max_examples=300, deadline=None)
@given(old=st.integers(1, 4), wanted=st.integers(1, 4), unit=st.integers(1, 4), spare=st.integers(0, 9))
def test_updates_of_gangs_end_with_whatever_room_there_is(old: int, wanted: int, unit: int, spare: int) -> None:
    room = wanted * unit + spare
    running = replicas(min(old, room // unit), size=unit)
    world = World(desired(wanted * unit, "v2", unit=unit), running, History(), room)
    world.settle()
    assert world.verdict is Verdict.SETTLED
    assert world.ready == wanted * unit and world.versions() == {"v2"}
    assert world.most <= room


@settings(max_examples=300, deadline=None)
@given(
    old=st.integers(1, 4), old_size=st.integers(1, 4), wanted=st.integers(1, 4), unit=st.integers(1, 4), lost=st.data()
)
def test_a_halted_update_of_gangs_keeps_the_old_ones_at_strength(
    old: int, old_size: int, wanted: int, unit: int, lost: st.DataObject
) -> None:
    want = desired(wanted * unit, "v2", unit=unit, fallback="v1", fallback_unit=old_size)
    world = World(want, replicas(old, size=old_size), History(start_failures=want.failure_limit))
    for name in lost.draw(st.lists(st.sampled_from(sorted(world.replicas)), unique=True)):
        del world.replicas[name]
    for turn in range(100):
        world.reconcile()
        world.finish_a_start(turn)
    assert world.verdict is Verdict.HALTED and world.versions() == {"v1"}
    assert world.ready == world.count >= wanted * unit
    assert world.count < wanted * unit + old_size, "not a gang more than needed"


def test_a_replica_that_only_waits_for_room_makes_the_old_ones_go() -> None:
    waiting = Observed("new", "v2", "c", Phase.STARTING, 9.0)
    result = plan(desired(1, "v2"), [*replicas(1), waiting], History(no_room=True), now=10.0)
    assert result.actions == (Stop("v1-0", "a newer version is wanted"),)
