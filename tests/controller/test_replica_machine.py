"""The replica state machine, under every order of events that hypothesis thinks of."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.controller import replica_machine as rm
from headrace.controller.replica_machine import Action, Cause, Event, Phase, Replica, step

LIVE = (Phase.STARTING, Phase.INITIALIZING, Phase.RUNNING, Phase.DRAINING)

events: st.SearchStrategy[Event] = st.one_of(
    st.builds(rm.ProcessStarted, st.integers(1, 9)),
    st.builds(rm.StartRefused, st.just("no such folder")),
    st.builds(rm.Adopted, st.integers(1, 9), st.sampled_from(LIVE)),
    st.just(rm.Connected()),
    st.just(rm.ConnectFailed("refused")),
    st.just(rm.ConnectionLost()),
    st.just(rm.Initialized()),
    st.just(rm.InitializeFailed("ValueError")),
    st.just(rm.HealthOk()),
    st.just(rm.HealthFailed("bad")),
    st.just(rm.HealthTimedOut(30.0)),
    st.just(rm.FoundBusy(12.0)),
    st.just(rm.FoundStopped(1.0)),
    st.just(rm.ProcessExited("killed by SIGKILL")),
    st.just(rm.StopWanted()),
    st.just(rm.Drained()),
    st.just(rm.DrainTimedOut()),
)


def run(*given_events: Event, replica: Replica | None = None) -> tuple[Replica, list[Action]]:
    state, actions = replica or Replica(), []
    for event in given_events:
        state, more = step(state, event)
        actions += more
    return state, actions


RUNNING = (rm.ProcessStarted(7), rm.Connected(), rm.Initialized())


def test_a_replica_starts_initializes_runs_drains_and_stops() -> None:
    replica, actions = run(*RUNNING, rm.HealthOk(), rm.StopWanted(), rm.Drained(), rm.ProcessExited("exited with 0"))
    assert replica.phase is Phase.STOPPED
    assert replica.process_gone and replica.cause is None
    assert actions == [
        Action.CONNECT,
        Action.INITIALIZE,
        Action.PUBLISH,
        Action.WATCH_HEALTH,
        Action.UNPUBLISH,
        Action.DRAIN,
        Action.KILL,
        Action.RELEASE,
    ]


def test_a_constructor_that_raises_fails_the_replica_with_its_reason() -> None:
    replica, actions = run(rm.ProcessStarted(7), rm.Connected(), rm.InitializeFailed("ValueError: no model"))
    assert (replica.phase, replica.cause, replica.reason) == (Phase.FAILED, Cause.CONSTRUCTOR, "ValueError: no model")
    assert actions[-1] is Action.KILL and not replica.ever_ran


def test_a_process_that_ends_while_running_is_unpublished_and_its_resources_freed() -> None:
    replica, actions = run(*RUNNING, rm.ProcessExited("killed by SIGKILL"))
    assert (replica.phase, replica.cause, replica.reason) == (Phase.FAILED, Cause.CRASH, "killed by SIGKILL")
    assert actions[-2:] == [Action.UNPUBLISH, Action.RELEASE]


def test_three_failed_health_checks_in_a_row_replace_a_replica() -> None:
    twice, _ = run(*RUNNING, rm.HealthFailed("a"), rm.HealthTimedOut(30))
    assert twice.phase is Phase.RUNNING
    forgiven, _ = run(rm.HealthOk(), rm.HealthFailed("b"), replica=twice)
    assert forgiven.phase is Phase.RUNNING
    failed, actions = run(rm.HealthTimedOut(30), replica=twice)
    assert (failed.phase, failed.cause) == (Phase.FAILED, Cause.HEALTH)
    assert actions == [Action.UNPUBLISH, Action.DRAIN]


def test_a_busy_replica_is_left_alone_however_long_it_takes() -> None:
    replica, actions = run(*RUNNING, *[rm.FoundBusy(float(i)) for i in range(100)])
    assert replica.phase is Phase.RUNNING and replica.busy_s == 99.0
    assert actions[-1] is Action.WATCH_HEALTH


def test_a_replica_that_is_stopped_while_it_starts_is_killed_again_once_there_is_a_process() -> None:
    _, actions = run(rm.StopWanted(), rm.ProcessStarted(7))
    assert actions == [Action.KILL, Action.KILL]


def test_an_adopted_running_replica_is_published_without_being_initialized() -> None:
    replica, actions = run(rm.Adopted(7, Phase.RUNNING))
    assert replica.phase is Phase.RUNNING
    assert actions == [Action.PUBLISH, Action.WATCH_HEALTH]


@settings(max_examples=1000)
@given(st.lists(events, max_size=30))
def test_whatever_happens_the_order_of_actions_is_safe(given_events: list[Event]) -> None:
    replica, published, released, killed = Replica(), False, False, False
    for event in given_events:
        before = replica
        replica, actions = step(replica, event)
        for action in actions:
            assert not released, "nothing is done with a replica whose process is gone"
            match action:
                case Action.PUBLISH:
                    assert not killed and replica.phase is Phase.RUNNING
                    published = True
                case Action.UNPUBLISH:
                    assert published
                    published = False
                case Action.DRAIN:
                    assert not published, "routers stop sending before a replica is drained"
                case Action.KILL:
                    assert not published
                    killed = True
                case Action.RELEASE:
                    released = True
                case _:
                    assert replica.active
        assert replica.published == published == (replica.phase is Phase.RUNNING)
        assert replica.process_gone == released
        assert (replica.phase is Phase.FAILED) == (replica.cause is not None)
        if not before.active:
            assert not replica.active, "nothing comes back"
            assert replica.phase is before.phase or before.phase is Phase.DRAINING


@settings(max_examples=500)
@given(st.lists(events.filter(lambda e: not isinstance(e, rm.ProcessExited | rm.StartRefused)), max_size=20))
def test_a_stopped_replica_always_ends_once_its_process_does(given_events: list[Event]) -> None:
    replica, actions = run(*given_events, rm.StopWanted(), rm.DrainTimedOut(), rm.ProcessExited("exited"))
    assert replica.process_gone and replica.phase in (Phase.STOPPED, Phase.FAILED)
    assert Action.KILL in actions and actions[-1] is Action.RELEASE


def test_one_whose_process_was_stopped_is_killed_without_a_drain() -> None:
    replica, actions = run(*RUNNING, rm.FoundStopped(2.0))
    assert replica.phase is Phase.FAILED and not replica.published
    assert actions[-2:] == [Action.UNPUBLISH, Action.KILL]
    assert "SIGSTOP" in replica.reason
