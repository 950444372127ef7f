"""What asks for replicas: requests, their latency, and what replicas tell of themselves. The largest need counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from headrace.config.autoscaling import AggregationFunction, AutoscalingConfig
from headrace.config.metric_target import MetricKind, MetricTarget
from headrace.controller.autoscaling.latency_target import Latencies
from headrace.controller.autoscaling.load_window import LoadWindow
from headrace.controller.autoscaling.replica_limit import LEAST, ReplicaLimit

TOLERANCE = 0.1
"""A level so little above its target is none of its business, as for Kubernetes' HorizontalPodAutoscaler."""


class Need(msgspec.Struct, frozen=True):
    """So many replicas, and why, in a sentence without an end."""

    replicas: float
    reason: str


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is the case, as far as signals go.

    Attributes:
        now: seconds.
        running, target: replicas that serve, and those wanted.
        load: ongoing requests over time.
        latencies: of the requests answered since it was looked last, as a sketch.
        metrics: what replicas last told of themselves: metric to replica to value.
    """

    now: float
    running: int
    target: int
    load: LoadWindow
    latencies: Mapping[int, int]
    metrics: Mapping[str, Mapping[str, float]]


class Signals(msgspec.Struct, frozen=True):
    """What is learnt from the past.

    Attributes:
        running, since: how many replicas serve, and since when.
        latencies: for `target_latency_p99_s`.
        levels: what a replica can have before a metric of kind `level` passes its target, by metric.
    """

    running: int = -1
    since: float = 0.0
    latencies: Latencies = Latencies()
    levels: dict[str, ReplicaLimit] = {}

    def observed(self, config: AutoscalingConfig, seen: Seen) -> Signals:
        """With what is the case now."""
        if config.target_latency_p99_s is None and not config.target_metrics:
            return self
        now, look_back_s, interval_s = seen.now, config.look_back_period_s, config.metrics_interval_s
        signals = self
        if seen.running != self.running:
            latencies = self.latencies.restarted(now, look_back_s)
            signals = replace(self, running=seen.running, since=now, latencies=latencies)
        ongoing = seen.load.aggregate(now, min(look_back_s, max(0.0, now - signals.since)), AggregationFunction.MEAN)
        latencies = signals.latencies
        if config.target_latency_p99_s is not None:
            latencies = latencies.observed(now, seen.latencies, interval_s, look_back_s)
            growth = seen.load.growth_per_s(now, signals.since)
            latencies = latencies.judged(now, config.target_latency_p99_s, seen.running, ongoing, growth, interval_s)
        levels = dict(signals.levels)
        if seen.running and now - signals.since >= look_back_s:  # what others have gone through is told no more
            for name, target in config.target_metrics.items():
                if target.kind is MetricKind.LEVEL and seen.metrics.get(name):
                    per_replica = ongoing / seen.running
                    levels[name] = _judged(
                        levels.get(name, ReplicaLimit()), now, per_replica, _level(seen, name, target)
                    )
        return replace(signals, latencies=latencies, levels=levels)

    def need(self, config: AutoscalingConfig, seen: Seen) -> Need:
        """The largest of what is needed."""
        return max(self._needs(config, seen), key=lambda need: need.replicas)

    def _needs(self, config: AutoscalingConfig, seen: Seen) -> Iterator[Need]:
        how, look_back_s = config.aggregation_function, config.look_back_period_s
        ongoing = seen.load.aggregate(seen.now, look_back_s, how)
        told = f"{number(ongoing)} ongoing requests ({how.value} over {look_back_s:g} s)"
        if config.target_ongoing_requests is not None:
            needed = ongoing / config.target_ongoing_requests
            yield Need(needed, f"{told} at {config.target_ongoing_requests:g} per replica need {number(needed)}")
        if config.target_latency_p99_s is not None:
            yield self._for_latency(config.target_latency_p99_s, ongoing, told, seen.target)
        for name, target in config.target_metrics.items():
            values = seen.metrics.get(name)
            if not values:
                yield Need(
                    float(seen.target if ongoing else 0),
                    f"target_metrics['{name}']: no replica tells of it, so that it keeps what there is",
                )
            elif target.kind is MetricKind.SHARED:
                yield _shared(name, target, values, seen.running)
            else:
                limit = self.levels.get(name, ReplicaLimit())
                needed = limit.needed(ongoing, seen.target)
                level = _level(seen, name, target) * target.target
                yield Need(
                    needed,
                    f"{name} is {number(level)} on average, {target.target:g} is aimed at; "
                    f"{told}{_per_replica(limit)} need {number(needed)}",
                )

    def _for_latency(self, target_s: float, ongoing: float, told: str, wanted: int) -> Need:
        limit, p99_s = self.latencies.limit, self.latencies.p99_s
        needed = limit.needed(ongoing, wanted, self.latencies.demand)
        seen = f"the p99 of the latency is {p99_s:.3g} s" if self.latencies.reports else "the p99 is not known yet"
        hint = ""
        if p99_s > target_s and limit.limit <= LEAST:
            hint = "; it breaks even where a replica has next to nothing to do, so that more would hardly help"
        rate = ""
        if math.isfinite(limit.rate_limit):
            rate = f" and {number(self.latencies.demand)} per second at {number(limit.rate_limit)}"
        return Need(
            needed,
            f"{seen}, {target_s:g} s is aimed at; {told}{_per_replica(limit)}{rate} need {number(needed)}{hint}",
        )


def _shared(name: str, target: MetricTarget, values: Mapping[str, float], running: int) -> Need:
    """Sum over target, as for a target of type AverageValue. Replicas that tell nothing are taken, with the caution of
    Kubernetes' autoscaler, for idle where more would be needed and for just right where fewer would."""
    total = math.fsum(values.values())
    needed = total / target.target
    silent = max(0, running - len(values))
    if needed < running:
        needed = min(float(running), needed + silent)
    return Need(
        max(0.0, needed),
        f"{name} adds up to {number(total)} over {len(values)} replicas, at {target.target:g} each "
        f"{number(needed)} are needed",
    )


def _level(seen: Seen, name: str, target: MetricTarget) -> float:
    """Mean over target."""
    values = seen.metrics[name]
    return math.fsum(values.values()) / len(values) / target.target


def _judged(limit: ReplicaLimit, now: float, per_replica: float, ratio: float) -> ReplicaLimit:
    if per_replica <= 0:
        return limit  # nobody is served: what is told, is told of the past
    if ratio > 1 + TOLERANCE:
        return limit.broke(now, per_replica, ratio)
    return limit.held(now, per_replica, max(0.0, ratio)) if ratio <= 1 else limit


def _per_replica(limit: ReplicaLimit) -> str:
    return f" at {number(limit.limit)} per replica" if math.isfinite(limit.limit) else ""


def number(value: float) -> str:
    """Two digits after the point, and none that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
