"""Answers of a Prometheus server, kept fresh in the background for a policy that goes by them."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "RAY_PROMETHEUS_HOST"
HEADERS_VARIABLE = "RAY_PROMETHEUS_HEADERS"
QUERY_TIMEOUT_S = 5.0

_QUERY_PATH = "/api/v1/query"


@dataclass(frozen=True)
class PrometheusScalar:
    """A query's answer that is one number. `timestamp`: Unix time, seconds."""

    value: float
    timestamp: float


@dataclass(frozen=True)
class PrometheusSample:
    """One number of a vector, and the labels that tell which. `timestamp`: Unix time, seconds."""

    labels: Mapping[str, str]
    value: float
    timestamp: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))


@dataclass(frozen=True)
class PrometheusVector:
    """A query's answer that is any number of samples."""

    samples: tuple[PrometheusSample, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", tuple(self.samples))


PrometheusQueryResult: TypeAlias = PrometheusScalar | PrometheusVector


class PrometheusQueryMixin:
    """Base of a policy class that goes by what a Prometheus server knows.

    A thread asks, from the first look at the answers on; looking never waits for the network.

    Args:
        prometheus_address: `host:port` or URL of the server; None for the environment's `RAY_PROMETHEUS_HOST`. Headers,
            such as one with a token, are taken from `RAY_PROMETHEUS_HEADERS`: a JSON object, or a list of pairs.
        prometheus_queries: PromQL expressions.
        fetch_interval_s: pause between two rounds of questions, seconds.
        cache_ttl_s: answers that are older are none, seconds.
        kwargs: passed on to the next class.

    Raises:
        ValueError: the headers in the environment are no such JSON.
    """

    def __init__(
        self,
        *,
        prometheus_address: str | None = None,
        prometheus_queries: Sequence[str] | None = None,
        fetch_interval_s: float = 5.0,
        cache_ttl_s: float = 15.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        address = prometheus_address or os.environ.get(ADDRESS_VARIABLE)
        headers = _headers(os.environ.get(HEADERS_VARIABLE) or "{}")
        self._cache_ttl_s = cache_ttl_s
        self._questions = _Questions(address, list(prometheus_queries or ()), headers, fetch_interval_s)
        self._asking = False

    @property
    def prometheus_results(self) -> dict[str, PrometheusQueryResult] | None:
        """The last answers by query; None if there are none, or only old ones. A query that failed is missing."""
        if not self._asking:
            self._asking = True
            self._questions.begin()
            weakref.finalize(self, self._questions.end)
        return self._questions.answers(self._cache_ttl_s)

    @property
    def prometheus_metrics(self) -> dict[str, float] | None:
        """Those of the answers that are a single number, by query; None if there are none."""
        results = self.prometheus_results or {}
        numbers = {query: number for query, result in results.items() if (number := _number(result)) is not None}
        return numbers or None


class _Questions:
    """What the thread works on. It knows nothing of the policy, which can be let go of for that reason."""

    def __init__(
        self, address: str | None, queries: list[str], headers: dict[str, str], fetch_interval_s: float
    ) -> None:
        self._address = address
        self._queries = queries
        self._headers = headers
        self._fetch_interval_s = fetch_interval_s
        self._ended = threading.Event()
        self._last: tuple[float, dict[str, PrometheusQueryResult]] | None = None

    def begin(self) -> None:
        if self._address and self._queries:
            threading.Thread(target=self._ask, args=(self._address,), name="prometheus", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def answers(self, not_older_than_s: float) -> dict[str, PrometheusQueryResult] | None:
        last = self._last  # replaced as a whole, so that no lock is needed
        if last is None or not last[1] or time.monotonic() - last[0] > not_older_than_s:
            return None
        return dict(last[1])

    def _ask(self, address: str) -> None:
        while not self._ended.is_set():
            answers = {}
            for query in self._queries:
                try:
                    answer = ask(address, query, self._headers)
                except Exception as error:  # one query's failure is not another's
                    logger.warning("Prometheus does not answer %r: %s: %s", query, type(error).__name__, error)
                else:
                    if answer is not None:
                        answers[query] = answer
            self._last = (time.monotonic(), answers)
            self._ended.wait(self._fetch_interval_s)


def ask(address: str, query: str, headers: Mapping[str, str] | None = None) -> PrometheusQueryResult | None:
    """The server's answer at this moment; None where there is no number in it.

    Raises:
        OSError: the server cannot be reached, or refuses.
        ValueError: the answer is not one to an instant query with floats in it.
    """
    url = f"{_query_url(address)}?{urllib.parse.urlencode({'query': query})}"
    request = urllib.request.Request(url, headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=QUERY_TIMEOUT_S) as response:
        body = json.load(response)
    if not isinstance(body, dict) or body.get("status") != "success":
        raise ValueError(f"the query failed: {body.get('error', body) if isinstance(body, dict) else body}")
    data = body.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if kind == "scalar":
        timestamp, value = _point(result)
        return PrometheusScalar(value, timestamp) if math.isfinite(value) else None
    if kind != "vector" or not isinstance(result, list):
        raise ValueError(f"the answer must be a scalar or a vector, not a {kind}")
    samples = (_sample(item) for item in result)
    # A quantile of nothing is NaN: no number, and no failure.
    return PrometheusVector(tuple(sample for sample in samples if math.isfinite(sample.value)))


def _query_url(address: str) -> str:
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        address = f"http://{address}"
    return address if address.endswith(_QUERY_PATH) else address + _QUERY_PATH


def _sample(item: Any) -> PrometheusSample:
    if not isinstance(item, dict) or "value" not in item:
        raise ValueError("the answer has a sample without a value; native histograms are not taken")
    labels = item.get("metric", {})
    if not isinstance(labels, dict) or not all(isinstance(part, str) for pair in labels.items() for part in pair):
        raise ValueError("the answer has labels that are no strings")
    timestamp, value = _point(item["value"])
    return PrometheusSample(labels, value, timestamp)


def _point(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("the answer has a value that is no pair of time and number")
    return float(value[0]), float(value[1])


def _number(result: PrometheusQueryResult) -> float | None:
    if isinstance(result, PrometheusScalar):
        return result.value
    return result.samples[0].value if len(result.samples) == 1 else None


def _headers(text: str) -> dict[str, str]:
    try:
        headers = dict(json.loads(text))
    except (TypeError, ValueError):
        headers = {"": None}
    if not all(isinstance(part, str) for pair in headers.items() for part in pair):
        raise ValueError(f"{HEADERS_VARIABLE} must be a JSON object of strings, or a list of pairs of strings")
    return headers
