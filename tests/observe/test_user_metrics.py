"""`serve.metrics`: metrics of user code, as they are exported."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import headrace as serve
from headrace.exceptions import ConfigError, ConfigTypeError
from headrace.observe.collectors import collect_process
from headrace.observe.exposition import merge
from headrace.router.context import RequestContext, request_context
from headrace.router.replica_context import DeploymentID, ReplicaContext, ReplicaID, set_current_replica

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """A name that no other test has given to a metric."""
    return f"metric_{next(_numbers)}"


@contextmanager
def in_replica(route: str = "") -> Iterator[None]:
    set_current_replica(ReplicaContext(ReplicaID("app#Model#abcde", DeploymentID("Model", "app"))))
    token = request_context.set(RequestContext("1", "app", "Model", route))
    try:
        yield
    finally:
        request_context.reset(token)
        set_current_replica(None)


HERE = {"application": "app", "deployment": "Model", "replica": "app#Model#abcde"}


def exported(name: str, prefix: str = "ray_") -> list[tuple[dict[str, str], float]]:
    text = merge([collect_process(prefix, {})]).decode()
    families = text_string_to_metric_families(text)
    return [(sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name]


def test_a_counter_is_labelled_by_replica_and_route(name: str) -> None:
    counter = serve.metrics.Counter(name, "Words.", tag_keys=("language",))
    with in_replica(route="/translate"):
        counter.inc(tags={"language": "fr"})
        counter.inc(2, tags={"language": "fr"})
        counter.inc(tags={"language": "de"})
    expected = {**HERE, "route": "/translate"}
    assert exported(f"ray_{name}_total") == [({**expected, "language": "fr"}, 3), ({**expected, "language": "de"}, 1)]


def test_a_gauge_may_be_asked_at_each_scrape(name: str) -> None:
    gauge = serve.metrics.Gauge(name, "Size.", tag_keys=("cache",))
    sizes = [1.0, 2.0]
    with in_replica():
        gauge.set_function(lambda: sizes.pop(0), tags={"cache": "a"})
        gauge.set(7, tags={"cache": "b"})
    assert exported(f"ray_{name}") == [({**HERE, "cache": "a"}, 1), ({**HERE, "cache": "b"}, 7)]
    assert exported(f"ray_{name}") == [({**HERE, "cache": "a"}, 2), ({**HERE, "cache": "b"}, 7)]
    # A function that raises costs no other series.
    (broken, value), other = exported(f"ray_{name}")
    assert broken["cache"] == "a"
    assert value != value
    assert other == ({**HERE, "cache": "b"}, 7)


def test_a_gauge_keeps_its_last_value_whatever_the_route(name: str) -> None:
    gauge = serve.metrics.Gauge(name)
    with in_replica():
        gauge.set(3)
    with in_replica(route="/translate"):
        gauge.set(5)
        gauge.set(None)
    assert exported(f"ray_{name}") == [(HERE, 5)]


def test_a_gauge_is_told_apart_by_route_where_it_asks_for_it(name: str) -> None:
    gauge = serve.metrics.Gauge(name, tag_keys=("route",))
    with in_replica(route="/a"):
        gauge.set(3)
        gauge.set(4, tags={"route": "/b"})
    assert exported(f"ray_{name}") == [({**HERE, "route": "/a"}, 3), ({**HERE, "route": "/b"}, 4)]


def test_a_histogram_counts_in_its_buckets(name: str) -> None:
    histogram = serve.metrics.Histogram(name, "Tokens.", [1, 10], ("kind",)).set_default_tags({"kind": "in"})
    with in_replica():
        for value in (0.5, 1, 7, 100):
            histogram.observe(value)
    buckets = {labels["le"]: value for labels, value in exported(f"ray_{name}_bucket")}
    assert buckets == {"1.0": 2, "10.0": 3, "+Inf": 4}
    assert exported(f"ray_{name}_sum")[0][1] == 108.5


def test_default_tags_give_way_to_those_of_a_call(name: str) -> None:
    gauge = serve.metrics.Gauge(name, tag_keys=("model", "device")).set_default_tags({"model": "a", "device": "cpu"})
    with in_replica():
        gauge.set(1, tags={"model": "b"})
    assert exported(f"ray_{name}") == [({**HERE, "model": "b", "device": "cpu"}, 1)]


def test_the_same_metric_may_be_made_again(name: str) -> None:
    for _ in range(2):
        with in_replica():
            serve.metrics.Counter(name, tag_keys=("model",)).inc(tags={"model": "a"})
    assert [value for _, value in exported(f"ray_{name}_total")] == [2]


def test_a_pickled_metric_is_the_same_one(name: str) -> None:
    gauge = serve.metrics.Gauge(name, "Size.", ("model",)).set_default_tags({"model": "a"})
    again = pickle.loads(pickle.dumps(gauge))
    assert (
        again.info
        == gauge.info
        == {
            "name": name,
            "description": "Size.",
            "tag_keys": ("model",),
            "default_tags": {"model": "a"},
        }
    )


def test_the_prefix_can_be_another_or_none(name: str) -> None:
    serve.metrics.Gauge(name).set(1)
    assert exported(name, prefix="") == [({"application": "", "deployment": "", "replica": ""}, 1)]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: serve.metrics.Counter("my-metric"), ConfigError, "letters, digits"),
        (lambda: serve.metrics.Counter(3), ConfigTypeError, "name must be a string"),
        (lambda: serve.metrics.Counter("c", tag_keys="model"), ConfigTypeError, "tag_keys must be a tuple of names"),
        (lambda: serve.metrics.Counter("c", tag_keys=("replica",)), ConfigError, "is set by Headrace itself"),
        (lambda: serve.metrics.Counter("c", tag_keys=("a-b",)), ConfigError, "a tag must be of letters"),
        (lambda: serve.metrics.Counter("c", tag_keys=("a", "a")), ConfigError, "has a name twice"),
        (lambda: serve.metrics.Histogram("h"), ConfigError, "boundaries must be positive numbers"),
        (lambda: serve.metrics.Histogram("h", boundaries=[2, 1]), ConfigError, "each larger than the one before"),
        (lambda: serve.metrics.Histogram("h", boundaries=[0, 1]), ConfigError, "positive"),
        (lambda: serve.metrics.Histogram("h", boundaries=["1"]), ConfigTypeError, "not '1'"),
    ],
)
def test_a_wrong_definition_is_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_wrong_use_is_refused(name: str) -> None:
    counter = serve.metrics.Counter(name, tag_keys=("language",))
    with pytest.raises(ConfigError, match="no value for language"):
        counter.inc()
    with pytest.raises(ConfigError, match="unknown tag 'langauge'; did you mean 'language'"):
        counter.set_default_tags({"langauge": "fr"})
    with pytest.raises(ConfigError, match="unknown tag 'model'"):
        counter.inc(tags={"language": "fr", "model": "a"})
    with pytest.raises(ConfigTypeError, match="tag 'language' must be a string, not 3"):
        counter.inc(tags={"language": 3})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="only grows"):
        counter.inc(-1, tags={"language": "fr"})
    with pytest.raises(ConfigTypeError, match="must be a number"):
        counter.inc("1", tags={"language": "fr"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="with other tags"):
        serve.metrics.Counter(name, tag_keys=("model",))
