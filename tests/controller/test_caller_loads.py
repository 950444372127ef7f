"""Requests under way are counted once, and not for longer than they are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace.config.autoscaling import AutoscalingConfig
from headrace.config.spec import Load
from headrace.controller.autoscaling.autoscaler import KEPT_DECISIONS, Autoscaler
from headrace.controller.autoscaling.caller_loads import CallerLoads
from headrace.controller.autoscaling.callers import Callers

counts = st.builds(Load, st.integers(0, 100), st.integers(0, 100))


@given(st.lists(st.tuples(st.sampled_from("abc"), counts)))
def test_the_total_is_the_last_word_of_each_caller(reports: list[tuple[str, Load]]) -> None:
    loads = CallerLoads()
    for caller, load in reports:
        loads.record(caller, load, 0.0, 1.0)
    last = dict(reports)
    assert loads.total == Load(sum(x.queued for x in last.values()), sum(x.running for x in last.values()))


def test_a_caller_that_is_gone_counts_no_more() -> None:
    loads = CallerLoads()
    loads.record("a", Load(3, 4), 0.0, 1.0)
    loads.record("b", Load(1, 0), 0.0, 1.0)
    assert loads.forget("a") and not loads.forget("a")
    assert loads.total == Load(1, 0)


def test_a_caller_that_is_silent_expires() -> None:
    """It may be stopped: its connection stands, and its count would keep the deployment awake for ever."""
    loads = CallerLoads()
    loads.record("quick", Load(1), 0.0, 0.1)
    loads.record("slow", Load(1), 0.0, 60.0)
    assert loads.next_expiry == 10.0
    loads.expire(9.9)
    assert len(loads) == 2
    loads.expire(10.0)
    assert len(loads) == 1 and loads.next_expiry == 180.0


def test_a_process_is_there_while_it_watches_anything() -> None:
    gone: list[str] = []
    callers = Callers(gone.append)
    with callers.watching("a"):
        with callers.watching("a"), callers.watching(""):
            pass
        assert gone == []
    assert gone == ["a"]


def config(**options: float) -> AutoscalingConfig:
    quick = {"min_replicas": 0, "max_replicas": 9, "upscale_delay_s": 0, "downscale_delay_s": 0}
    return AutoscalingConfig(**{**quick, **options})  # type: ignore[arg-type]


def test_a_queue_that_a_dead_caller_left_behind_does_not_keep_it_awake() -> None:
    scaler = Autoscaler(config(look_back_period_s=1, metrics_interval_s=0.5), 0)
    scaler.report("a", Load(queued=1), 0.0)
    assert scaler.decide(0.0, 0, 0) is not None and scaler.target == 1
    scaler.decide(0.1, 1, 0)
    assert scaler.look_again_at == 10.0  # no report comes any more
    scaler.decide(10.0, 1, 0)
    scaler.decide(11.0, 1, 0)
    assert scaler.target == 0


def test_a_controller_that_started_again_first_waits_for_callers() -> None:
    scaler = Autoscaler(config(), 5, hold_until=2.0)
    assert scaler.decide(0.0, 5, 0) is None and scaler.look_again_at == 2.0
    scaler.report("a", Load(2, 8), 1.0)
    assert scaler.decide(2.0, 5, 0) is None and scaler.target == 5


def test_one_that_slept_is_woken_also_while_a_new_controller_waits() -> None:
    scaler = Autoscaler(config(), 0, hold_until=2.0)
    scaler.report("a", Load(queued=1), 0.5)
    assert scaler.decide(0.5, 0, 0) is not None and scaler.target == 1


def test_the_last_decisions_are_kept_with_their_reasons() -> None:
    scaler = Autoscaler(config(look_back_period_s=0.001, metrics_interval_s=0.0005), 0)
    for step in range(2 * KEPT_DECISIONS):
        scaler.report("a", Load(step % 2), float(step))
        scaler.decide(step + 0.5, 1, 0)
        scaler.decide(step + 0.6, 1, 0)
    decisions = scaler.status().decisions
    assert len(decisions) == KEPT_DECISIONS
    assert all(decision.reason and decision.previous != decision.target for decision in decisions)
    assert all(earlier.target == later.previous for earlier, later in pairwise(decisions))


def test_new_settings_keep_the_target_unless_they_say_where_to_start() -> None:
    scaler = Autoscaler(config(), 4)
    scaler.configure(config(max_replicas=8))
    assert scaler.target == 4
    scaler.configure(config(max_replicas=8, initial_replicas=2))
    assert scaler.target == 2
    scaler.configure(config(max_replicas=8, initial_replicas=2))
    scaler.target = 3
    scaler.configure(config(max_replicas=8, initial_replicas=2))
    assert scaler.target == 3
