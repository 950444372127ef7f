"""What happened between two scrapes, by deployment: a pure function of two texts and a time.

As Prometheus' `rate` has it: a counter that fell began again at 0. A replica that is in the later scrape alone counts
where its process is younger than the earlier scrape; where it is not, it did not answer the earlier one, and what it
has counted since its start says nothing of the time between.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_MARK = "serve_event_loop_tasks"
"""A metric of every process, by which the prefix of the names is known."""

_LATENCY = "serve_deployment_processing_latency_ms"
_ERRORS = "serve_deployment_error_counter_total"
_ONGOING = "serve_replica_processing_queries"
_QUEUED = "serve_deployment_queued_queries"
_REFUSED = "serve_deployment_refused_requests_total"
_CPU = "process_cpu_seconds_total"
_MEMORY = "process_resident_memory_bytes"
_STARTED = "process_start_time_seconds"
_CANCELLED = "CancelledError"

Deployment = tuple[str, str]
"""Names of application and deployment."""

_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape.

    Attributes:
        at: when it was taken, seconds of any clock that goes evenly.
        unix: the same as Unix time, seconds.
        samples: by name, without the instance's prefix, and by labels.
        unanswered: processes that are not in it because they did not answer.
    """

    at: float
    unix: float
    samples: Mapping[str, Mapping[_Labels, float]]
    unanswered: int = 0


@dataclass(slots=True)
class Load:
    """What a deployment did in an interval.

    Attributes:
        requests_per_s, errors_per_s, refused_per_s: those that ended, that failed of them, and that were not taken.
        buckets: how many requests took not longer than each bound, milliseconds; the last bound is infinite.
        ongoing, queued: requests at the end of the interval.
        cpu_percent: of one processor, all replicas together.
        memory_bytes: resident memory of all replicas together; pages that they share count in each.
        reporting: replicas that are in the scrape.
    """

    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    refused_per_s: float = 0.0
    buckets: dict[float, float] = field(default_factory=dict)
    ongoing: float = 0.0
    queued: float = 0.0
    cpu_percent: float = 0.0
    memory_bytes: float = 0.0
    reporting: int = 0

    def latency_ms(self, q: float) -> float | None:
        """See `quantile`."""
        return quantile(q, self.buckets)


def read_scrape(text: str, at: float, unix: float) -> Scrape:
    """A scrape in Prometheus' text format.

    Raises:
        ValueError: it is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[_Labels, float]] = defaultdict(dict)
    prefix = ""
    for family in text_string_to_metric_families(text):
        if family.name.endswith(_MARK):
            prefix = family.name.removesuffix(_MARK)
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    samples = {name.removeprefix(prefix): series for name, series in found.items()}
    unanswered = sum(samples.get("serve_metrics_unanswered", {}).values())
    return Scrape(at, unix, samples, int(unanswered))


def loads(before: Scrape, after: Scrape) -> dict[Deployment, Load]:
    """What each deployment that `after` tells of did since `before`."""
    seconds = after.at - before.at
    found: dict[Deployment, Load] = defaultdict(Load)
    for name, attribute in ((_ONGOING, "ongoing"), (_QUEUED, "queued"), (_MEMORY, "memory_bytes")):
        for labels, value in after.samples.get(name, {}).items():
            if (deployment := _deployment(labels)) is not None:
                load = found[deployment]
                setattr(load, attribute, getattr(load, attribute) + value)
    for labels in after.samples.get(_ONGOING, {}):
        if (deployment := _deployment(labels)) is not None:
            found[deployment].reporting += 1
    if seconds <= 0:
        return dict(found)
    for deployment, labels, rise in _rises(_ERRORS, before, after):
        if dict(labels).get("exception_type") != _CANCELLED:
            found[deployment].errors_per_s += rise / seconds
    for deployment, _, rise in _rises(_REFUSED, before, after):
        found[deployment].refused_per_s += rise / seconds
    for deployment, _, rise in _rises(_CPU, before, after):
        found[deployment].cpu_percent += 100 * rise / seconds
    for deployment, labels, rise in _rises(f"{_LATENCY}_bucket", before, after):
        bound = float(dict(labels).get("le", "inf"))
        buckets = found[deployment].buckets
        buckets[bound] = buckets.get(bound, 0.0) + rise
    for load in found.values():
        load.requests_per_s = load.buckets.get(math.inf, 0.0) / seconds
    return dict(found)


def _rises(name: str, before: Scrape, after: Scrape) -> Iterator[tuple[Deployment, _Labels, float]]:
    """By how much each series of a counter has risen."""
    earlier = before.samples.get(name, {})
    known = _replicas(before)
    began = {replica for replica, at in _started(after).items() if at >= before.unix}
    for labels, value in after.samples.get(name, {}).items():
        deployment = _deployment(labels)
        if deployment is None:
            continue
        was = earlier.get(labels)
        if was is None:
            replica = dict(labels).get("replica")
            whole = before.unanswered == 0 if replica is None else replica in known or replica in began
            was = 0.0 if whole else value
        rise = value - was if value >= was else value
        if math.isfinite(rise):
            yield deployment, labels, rise


def _replicas(scrape: Scrape) -> set[str]:
    """The replicas that answered."""
    return {replica for labels in scrape.samples.get(_ONGOING, {}) if (replica := dict(labels).get("replica"))}


def _started(scrape: Scrape) -> dict[str, float]:
    """When the process of each replica began, Unix time."""
    series = scrape.samples.get(_STARTED, {})
    return {replica: at for labels, at in series.items() if (replica := dict(labels).get("replica"))}


def _deployment(labels: _Labels) -> Deployment | None:
    found = dict(labels)
    name = found.get("deployment")
    return (found.get("application", ""), name) if name else None


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """A quantile of a histogram, as Prometheus' `histogram_quantile`: even within a bucket, from 0 in the first; the
    highest finite bound where it lies above that.

    Args:
        q: from 0 to 1.
        buckets: by upper bound, how many are not above it.

    Returns:
        None where there are no values, or no bound is infinite.
    """
    bounds = sorted(buckets)
    if not bounds or not math.isinf(bounds[-1]) or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        # Processes are not scraped at one instant, so that sums of them may fall from a bucket to the next.
        count = max(buckets[bound], below)
        if count >= rank and count > below:
            return lower if math.isinf(bound) else lower + (bound - lower) * max(0.0, rank - below) / (count - below)
        if not math.isinf(bound):
            lower = bound
        below = count
    return lower
