"""Metrics of user code, with Ray Serve's signatures: `serve.metrics.Counter`, `Gauge` and `Histogram`.

    @serve.deployment
    class Translator:
        def __init__(self):
            self.words = serve.metrics.Counter("words", "Words translated.", tag_keys=("language",))

        async def __call__(self, request):
            ...
            self.words.inc(len(words), tags={"language": "fr"})

They are Prometheus metrics, kept by `prometheus_client` in the replica's process and exported with Headrace's own at
`/-/metrics`. Application, deployment and replica are labels of every series; the route that the request came in by is
one of every counter and histogram, and of a gauge that asks for it with `tag_keys=("route", ...)`: a gauge tells a
state, which belongs to no request.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Generic, Self, TypeVar

import prometheus_client

from headrace.config.problems import nearest, shown
from headrace.exceptions import ConfigError, ConfigTypeError
from headrace.observe.collectors import add_user_registry
from headrace.router.context import current
from headrace.router.replica_context import ReplicaContext, current_replica

__all__ = ["Counter", "Gauge", "Histogram"]

logger = logging.getLogger("headrace.metrics")

_REPLICA_TAGS = ("application", "deployment", "replica")
_ROUTE = "route"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG_KEY = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

P = TypeVar("P", prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)

_registry = prometheus_client.CollectorRegistry()
add_user_registry(_registry)
_defined: dict[str, tuple[tuple[object, ...], Any]] = {}
_defining = threading.Lock()


class _Metric(ABC, Generic[P]):
    """
    Args:
        name: letters, digits, `_` and `:`, no digit first; unique in the process, together with its other arguments.
            It is exported with the instance's prefix (`ray_`), a counter with `_total` behind.
        description: what it counts, for people.
        tag_keys: names of the tags that its series are told apart by.

    Raises:
        ConfigError: a wrong name or tag, or another metric of the name with other tags is there already.
        ConfigTypeError: something of the wrong type.
    """

    def __init__(self, name: str, description: str, tag_keys: Sequence[str] | None, always_by_route: bool) -> None:
        self._name = _checked_name(type(self).__name__, name)
        self._title = f"{type(self).__name__} {name!r}"
        self._description = description or ""
        self._tag_keys = _checked_tag_keys(self._title, tag_keys)
        self._own_keys = tuple(key for key in self._tag_keys if key != _ROUTE)
        self._by_route = always_by_route or _ROUTE in self._tag_keys
        self._default_tags: dict[str, str] = {}
        self._metric: P = self._define()
        self._series: dict[tuple[Any, ...], P] = {}

    @property
    def info(self) -> dict[str, Any]:
        """What it was defined with: `name`, `description`, `tag_keys` and `default_tags`."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Self:
        """Values of tags that a call does not name. They replace earlier ones.

        Returns:
            The metric itself.

        Raises:
            ConfigError: a tag that is none of `tag_keys`.
            ConfigTypeError: a value that is no string.
        """
        self._check_tags(default_tags)
        self._default_tags = dict(default_tags)
        return self

    # Prometheus.

    @abstractmethod
    def _make(self, labels: tuple[str, ...]) -> P:
        """Make it known to Prometheus."""

    def _identity(self) -> tuple[object, ...]:
        return (type(self).__name__, self._own_keys, self._by_route)

    def _define(self) -> P:
        """The process's metric of this name: user code may make the same one again, in each of its instances."""
        identity = self._identity()
        with _defining:
            known = _defined.get(self._name)
            if known is None:
                labels = (*_REPLICA_TAGS, *((_ROUTE,) if self._by_route else ()), *self._own_keys)
                try:
                    known = _defined[self._name] = (identity, self._make(labels))
                except ValueError as error:
                    raise ConfigError(f"{self._title}: {error}") from None
        if known[0] != identity:
            raise ConfigError(
                f"{self._title}: this process has a metric of that name with other tags, boundaries or type already; "
                f"give one of the two another name"
            )
        metric: P = known[1]
        return metric

    def _at(self, tags: Mapping[str, str] | None) -> P:
        """The series of these tags, in this replica, for this request."""
        defaults = self._default_tags
        given = ({**defaults, **tags} if defaults else tags) if tags else defaults
        try:
            own = tuple([given[key] for key in self._own_keys])
        except KeyError:
            missing = [key for key in self._own_keys if key not in given]
            raise ConfigError(
                f"{self._title}: no value for {', '.join(missing)}; give one in tags or with set_default_tags"
            ) from None
        route = None
        if self._by_route:
            route = given.get(_ROUTE)
            if route is None:
                request = current()
                route = request.route if request is not None else ""
        if len(given) != len(own):
            self._check_tags(given)
        replica = current_replica()
        key = (replica and replica.replica_id.unique_id, route, own)
        try:
            return self._series[key]
        except KeyError:
            pass
        self._check_tags(given)
        series = self._series[key] = self._metric.labels(
            *_replica_values(replica), *((route,) if self._by_route else ()), *own
        )
        return series

    def _check_tags(self, tags: Mapping[str, str]) -> None:
        known = (*self._own_keys, *((_ROUTE,) if self._by_route else ()))
        for key, value in tags.items():
            if key not in known:
                meant = nearest(key, known) if isinstance(key, str) else None
                hint = f"; did you mean {meant!r}?" if meant else f"; its tag_keys are {self._tag_keys}"
                raise ConfigError(f"{self._title}: unknown tag {shown(key)}{hint}")
            if not isinstance(value, str):
                raise ConfigTypeError(f"{self._title}: tag {key!r} must be a string, not {shown(value)}")

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ConfigTypeError(f"{self._title}: the value must be a number, not {shown(value)}")
        return float(value)

    # Pickling: a metric that user code captured is made anew in the replica's process.

    def _arguments(self) -> tuple[Any, ...]:
        return (self._name, self._description, self._tag_keys)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _restored, (type(self), self._arguments(), self._default_tags)

    def __repr__(self) -> str:
        return f"<{self._title}>"


class Counter(_Metric[prometheus_client.Counter]):
    """A number that only grows: requests, tokens, bytes.

    See the module's text for its labels. A counter `words` is exported as `ray_words_total`.

    Args:
        name: letters, digits, `_` and `:`, no digit first.
        description: what it counts, for people.
        tag_keys: names of the tags that its series are told apart by.

    Raises:
        ConfigError: a wrong name or tag, or another metric of the name with other tags is there already.
        ConfigTypeError: something of the wrong type.
    """

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys, always_by_route=True)

    def _make(self, labels: tuple[str, ...]) -> prometheus_client.Counter:
        return prometheus_client.Counter(self._name, self._description, labels, registry=_registry)

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add `value`, at least 0, to the series of `tags`.

        Raises:
            ConfigError: `value` is negative, or a tag has no value or is none of `tag_keys`.
            ConfigTypeError: `value` is no number, or a tag's value no string.
        """
        number = self._number(value)
        if not 0 <= number < math.inf:
            raise ConfigError(f"{self._title}: a counter only grows, so value must be at least 0, not {value!r}")
        self._at(tags).inc(number)


class Gauge(_Metric[prometheus_client.Gauge]):
    """A number that goes up and down: memory, the size of a cache.

    Args:
        name: letters, digits, `_` and `:`, no digit first.
        description: what it tells, for people.
        tag_keys: names of the tags that its series are told apart by.

    Raises:
        ConfigError: a wrong name or tag, or another metric of the name with other tags is there already.
        ConfigTypeError: something of the wrong type.
    """

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys, always_by_route=False)

    def _make(self, labels: tuple[str, ...]) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(self._name, self._description, labels, registry=_registry)

    def set(self, value: float | None, tags: Mapping[str, str] | None = None) -> None:
        """Set the series of `tags` to `value`; None leaves it as it is.

        Raises:
            ConfigError: a tag has no value or is none of `tag_keys`.
            ConfigTypeError: `value` is no number, or a tag's value no string.
        """
        if value is not None:
            self._at(tags).set(self._number(value))

    def set_function(self, function: Callable[[], float], tags: Mapping[str, str] | None = None) -> None:
        """Have the series of `tags` tell what `function` returns, asked at each scrape in place of `set`.

        Args:
            function: called on the scrape's thread, not the event loop's; returns `nan` where there is nothing to tell,
                and counts as such where it raises.
            tags: as in `set`.

        Raises:
            ConfigError: a tag has no value or is none of `tag_keys`.
        """

        def ask() -> float:
            try:
                return self._number(function())
            except Exception as error:  # the others are to be told all the same
                logger.warning("%s: its function raised %s: %s", self._title, type(error).__name__, error)
                return math.nan

        self._at(tags).set_function(ask)


class Histogram(_Metric[prometheus_client.Histogram]):
    """How values are spread: latencies, sizes.

    Args:
        name: letters, digits, `_` and `:`, no digit first.
        description: what is observed, and its unit, for people.
        boundaries: upper bounds of the buckets, positive and rising; one without bound comes by itself.
        tag_keys: names of the tags that its series are told apart by.

    Raises:
        ConfigError: a wrong name, tag or boundary, or another metric of the name with other tags is there already.
        ConfigTypeError: something of the wrong type.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        self.boundaries = _checked_boundaries(f"Histogram {name!r}", boundaries)
        super().__init__(name, description, tag_keys, always_by_route=True)

    def _make(self, labels: tuple[str, ...]) -> prometheus_client.Histogram:
        buckets = self.boundaries
        return prometheus_client.Histogram(self._name, self._description, labels, buckets=buckets, registry=_registry)

    def _identity(self) -> tuple[object, ...]:
        return (*super()._identity(), tuple(self.boundaries))

    def _arguments(self) -> tuple[Any, ...]:
        return (self._name, self._description, self.boundaries, self._tag_keys)

    @property
    def info(self) -> dict[str, Any]:
        """What it was defined with: as of other metrics, and `boundaries`."""
        return {**super().info, "boundaries": list(self.boundaries)}

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count `value` in the series of `tags`.

        Raises:
            ConfigError: a tag has no value or is none of `tag_keys`.
            ConfigTypeError: `value` is no number, or a tag's value no string.
        """
        self._at(tags).observe(self._number(value))


def _restored(cls: Callable[..., _Metric[Any]], arguments: tuple[Any, ...], tags: dict[str, str]) -> _Metric[Any]:
    metric = cls(*arguments)
    return metric.set_default_tags(tags) if tags else metric


def _replica_values(replica: ReplicaContext | None) -> tuple[str, str, str]:
    """Values of `_REPLICA_TAGS`; empty in a driver, which Prometheus takes for not there."""
    return (replica.app_name, replica.deployment, replica.replica_tag) if replica is not None else ("", "", "")


def _checked_name(kind: str, name: object) -> str:
    if not isinstance(name, str):
        raise ConfigTypeError(f"{kind}: name must be a string, not {shown(name)}")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{kind}: name must be of letters, digits, '_' and ':' without a digit first, not {shown(name)}"
        )
    return name


def _checked_tag_keys(title: str, keys: object) -> tuple[str, ...]:
    if keys is None:
        return ()
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise ConfigTypeError(f"{title}: tag_keys must be a tuple of names, not {shown(keys)}")
    checked = tuple(keys)
    for key in checked:
        if not isinstance(key, str):
            raise ConfigTypeError(f"{title}: tag_keys must be names, not {shown(key)}")
        if key in _REPLICA_TAGS:
            raise ConfigError(f"{title}: the tag {key!r} is set by Headrace itself; take another name")
        if not _TAG_KEY.fullmatch(key):
            raise ConfigError(f"{title}: a tag must be of letters, digits and '_' without a digit first, not {key!r}")
    if len(set(checked)) != len(checked):
        raise ConfigError(f"{title}: tag_keys has a name twice: {checked}")
    return checked


def _checked_boundaries(title: str, boundaries: object) -> list[float]:
    rule = "boundaries must be positive numbers, each larger than the one before, such as [1.0, 10.0, 100.0]"
    if boundaries is None or isinstance(boundaries, str) or not isinstance(boundaries, Iterable):
        raise ConfigError(f"{title}: {rule}")
    checked = list(boundaries)
    for number in checked:
        if isinstance(number, bool) or not isinstance(number, Real):
            raise ConfigTypeError(f"{title}: {rule}, not {shown(number)}")
    bounds = [float(number) for number in checked]
    rising = all(low < high for low, high in pairwise(bounds))
    if not bounds or not rising or bounds[0] <= 0:
        raise ConfigError(f"{title}: {rule}, not {shown(checked)}")
    return bounds
