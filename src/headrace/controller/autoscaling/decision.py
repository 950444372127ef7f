"""How many replicas there should be: values in, a decision out.

`decide` keeps no time and starts nothing. It may be called at any moment, any number of times: what the load asks for
is worked out from replicas that serve, never from those that are still starting, so that calling it again while they
start changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from headrace.config.autoscaling import AutoscalingConfig
from headrace.controller.autoscaling.load_window import LoadWindow
from headrace.controller.autoscaling.signals import Need, Seen, Signals, number

_ROUNDING = 1e-9
"""Divisions leave 3.0000000000000004 where 3 is meant; that is no reason for a fourth replica."""

_CLOCK_ROUNDING_S = 1e-6


class AutoscalingState(msgspec.Struct, frozen=True):
    """What one decision hands to the next.

    Attributes:
        load: ongoing requests over time.
        direction: 1 while the load asks for more replicas than are wanted, -1 for fewer, otherwise 0.
        since: since when it has asked for that, without a break.
        gentlest: the smallest step that it has asked for since then.
        signals: what is learnt of what replicas can have, where a target needs that.
    """

    load: LoadWindow = LoadWindow()
    signals: Signals = Signals()
    direction: int = 0
    since: float = 0.0
    gentlest: int = 0


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is the case.

    Attributes:
        now: seconds, on any clock that never goes back.
        running: replicas that serve. `starting`: those that do not yet.
        target: how many are wanted at present.
        total_ongoing: requests queued at callers and running at replicas at this moment, each counted once.
        wanted: how many replicas a policy of the user asks for; None where the load decides. `wanted_because`: why, in
            a sentence.
        latencies: of the requests answered since the last decision, as a sketch, where the config has a target for it.
        metrics: what replicas last told of themselves: metric to replica to value.
        scheduled_min: minimum that a schedule sets for this moment. `scheduled_by`: which entry does.
        target_capacity: percentage of `min_replicas` and `max_replicas` that holds at present; None for all.
        capacity_grows: that percentage was raised last; `initial_replicas` is the minimum then.
        unit: replicas come and go so many at a time: the size of a gang. What is needed is rounded up to whole gangs.
    """

    now: float
    running: int
    starting: int
    target: int
    total_ongoing: float
    wanted: float | None = None
    wanted_because: str = ""
    latencies: Mapping[int, int] = {}
    metrics: Mapping[str, Mapping[str, float]] = {}
    scheduled_min: int = 0
    scheduled_by: str = ""
    target_capacity: float | None = None
    capacity_grows: bool = False
    unit: int = 1


class Decision(msgspec.Struct, frozen=True):
    """
    Attributes:
        target: how many replicas to want from now on.
        reason: why, in a sentence.
        state: for the next decision.
        look_again_at: when the decision may become another one although nothing is observed; None for never.
        needed: how many replicas the load or the policy asks for, before bounds and delays; None if unasked.
    """

    target: int
    reason: str
    state: AutoscalingState
    look_again_at: float | None = None
    needed: float | None = None


def decide(config: AutoscalingConfig, state: AutoscalingState, observation: Observation) -> Decision:
    """How many replicas to want.

    1. Each target needs so many replicas (see `signals`), and the largest number counts; for `target_ongoing_requests`
       it is the ongoing requests, aggregated over `look_back_period_s`, divided by it. Or a policy says how many.
    2. The step from the replicas that serve to those needed is multiplied by the factor of its direction. A step down
       never ends below what is needed, however large its factor.
    3. Bounds are applied: they hold at once, without delay.
    4. A step is taken when the load has asked for one in its direction, without a break, for that direction's delay.
       It is the smallest of those asked for meanwhile, as the stabilisation window of Kubernetes'
       HorizontalPodAutoscaler has it: acting on the last moment's load would swing with its noise.
       The first request at zero replicas gets one at once, and so does a policy that asks for more than nothing.
    """
    now, unit = observation.now, observation.unit
    lowest, highest = bounds(config, observation)
    target = min(max(whole_units(observation.target, unit), lowest), highest)
    state, seen = _observed(config, state, observation)
    if target != observation.target:
        settled = replace(state, direction=0)
        reason = _bounds_reason(observation, lowest, highest)
        return Decision(target, reason, settled, _window_moves_at(config, settled, now))
    awake = observation.total_ongoing > 0
    if target == 0 and awake and highest > 0:
        load = LoadWindow().observed(now, observation.total_ongoing, config.look_back_period_s)
        woken = AutoscalingState(load=load, signals=state.signals)
        return Decision(unit, "a request came while there was no replica", woken, now)
    need = _need(config, state, seen, observation)
    step = _scaled(config, need.replicas, observation.running, target)
    if awake:
        step = max(1, step)  # whatever the aggregate says, nobody is left waiting
    step = min(max(whole_units(step, unit), lowest), highest)
    if step < target and target > unit:
        step = max(unit, step)  # the last replica goes by itself, with a delay of its own
    if observation.wanted is not None and target == 0 and step > 0:
        return Decision(step, need.reason, replace(state, direction=0), now, need.replicas)
    return replace(_delayed(config, state, now, target, step, need.reason, unit), needed=need.replicas)


def bounds(config: AutoscalingConfig, observation: Observation) -> tuple[int, int]:
    """The fewest and the most replicas that are allowed at this moment."""
    lowest = config.min_replicas
    if observation.capacity_grows and config.initial_replicas is not None:
        lowest = config.initial_replicas
    highest = at_capacity(config.max_replicas, observation.target_capacity)
    lowest = max(at_capacity(lowest, observation.target_capacity), min(observation.scheduled_min, highest))
    # Of bounds that are no whole gangs, such as defaults, the gangs between them are meant; one where there is none.
    lowest = whole_units(lowest, observation.unit)
    highest = max(highest // observation.unit * observation.unit, min(1, highest) * observation.unit)
    return min(lowest, highest), highest


def whole_units(replicas: int, unit: int) -> int:
    """As many replicas, rounded up to whole gangs of so many."""
    return -(-replicas // unit) * unit


def at_capacity(replicas: int, target_capacity: float | None) -> int:
    """That percentage of a number of replicas, rounded half up, at least 1 where neither is 0."""
    if target_capacity is None or target_capacity == 100:
        return replicas
    if target_capacity == 0 or replicas == 0:
        return 0
    return max(1, math.floor(replicas * target_capacity / 100 + 0.5))


def _observed(
    config: AutoscalingConfig, state: AutoscalingState, observation: Observation
) -> tuple[AutoscalingState, Seen]:
    load = state.load.observed(observation.now, observation.total_ongoing, config.look_back_period_s)
    seen = Seen(
        now=observation.now,
        running=observation.running,
        target=observation.target,
        load=load,
        latencies=observation.latencies,
        metrics=observation.metrics,
    )
    return replace(state, load=load, signals=state.signals.observed(config, seen)), seen


def _need(config: AutoscalingConfig, state: AutoscalingState, seen: Seen, observation: Observation) -> Need:
    if observation.wanted is not None:
        because = observation.wanted_because or f"the policy asks for {number(observation.wanted)}"
        return Need(max(0.0, observation.wanted), because)
    return state.signals.need(config, seen)


def _scaled(config: AutoscalingConfig, needed: float, running: int, target: int) -> int:
    """What is needed, with the factor of its direction applied to the step from what runs."""
    whole = _ceil(needed)
    if running == 0:
        step = whole
    else:
        factor = config.effective_upscaling_factor if needed > running else config.effective_downscaling_factor
        step = max(0, _ceil(running + factor * (needed - running)))
        if whole < running == step:
            step -= 1  # a small factor must not stop the way down
        if whole < running:
            step = max(step, whole)  # a large one must not lead below what is needed, only to come back
    # Factors change how far a step goes, never whether there is one: while replicas start, `running` is behind
    # `target`, and the same load must not be answered twice.
    if whole > target:
        return max(step, target)
    return min(step, target) if whole < target else target


def _delayed(
    config: AutoscalingConfig,
    state: AutoscalingState,
    now: float,
    target: int,
    step: int,
    reason: str,
    unit: int,
) -> Decision:
    direction = (step > target) - (step < target)
    if direction == 0:
        state = replace(state, direction=0)
        return Decision(target, reason, state, _window_moves_at(config, state, now))
    if state.direction != direction:
        state = replace(state, direction=direction, since=now, gentlest=step)
    # What was asked for at one moment of the delay may be noise; what was asked for throughout is not.
    step = min(state.gentlest, step) if direction > 0 else max(state.gentlest, step)
    state = replace(state, gentlest=step)
    delay_s, name = _delay(config, direction, last=target == unit)
    due = state.since + delay_s
    if now + _CLOCK_ROUNDING_S >= due:
        state = replace(state, direction=0)
        if delay_s:
            reason = f"{reason}; so for {name}={delay_s:g} s"
        return Decision(step, reason, state, now)
    moves_at = _window_moves_at(config, state, now)
    waiting = f"{reason}; waits for {name}={delay_s:g} s"
    return Decision(target, waiting, state, due if moves_at is None else min(due, moves_at))


def _delay(config: AutoscalingConfig, direction: int, last: bool) -> tuple[float, str]:
    if direction > 0:
        return config.upscale_delay_s, "upscale_delay_s"
    if last and config.downscale_to_zero_delay_s is not None:
        return config.downscale_to_zero_delay_s, "downscale_to_zero_delay_s"
    return config.downscale_delay_s, "downscale_delay_s"


def _window_moves_at(config: AutoscalingConfig, state: AutoscalingState, now: float) -> float | None:
    """When the aggregate has moved enough to be worth a look, though nothing new is observed."""
    if state.load.constant:
        return None
    return min(now + config.metrics_interval_s, state.load.changes_by(config.look_back_period_s))


def _bounds_reason(observation: Observation, lowest: int, highest: int) -> str:
    wanted = observation.target
    if wanted < lowest and lowest == observation.scheduled_min:
        return f"{observation.scheduled_by or 'the schedule'} sets the minimum to {lowest}, and {wanted} were wanted"
    bound = f"the minimum is {lowest}" if wanted < lowest else f"the maximum is {highest}"
    if observation.target_capacity not in (None, 100):
        bound += f" at target_capacity={observation.target_capacity:g}"
    return f"{bound}, and {wanted} were wanted"


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)
