"""Requests and tokens per minute, at handed-in times."""

from __future__ import annotations

import pytest

from headrace.llm.api.api_keys import read_api_keys
from headrace.llm.api.rate_limits import RateLimits, duration

KEYS = read_api_keys(
    [
        {"key": "a", "name": "both", "requests_per_minute": 3, "tokens_per_minute": 600},
        {"key": "b", "name": "requests", "requests_per_minute": 1},
        {"key": "c", "name": "free"},
    ]
)


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits(KEYS, 0.0)


def test_the_request_after_the_last_is_refused_until_its_time(limits: RateLimits) -> None:
    assert [limits.reserve("both", 1, 0.0).exceeded for _ in range(4)] == ["", "", "", "requests"]
    assert limits.reserve("both", 1, 0.0).wait_s == pytest.approx(20)
    assert limits.reserve("both", 1, 20.0).exceeded == ""
    assert limits.reserve("both", 1, 20.0).exceeded == "requests"


def test_a_refused_request_takes_nothing(limits: RateLimits) -> None:
    limits.reserve("both", 600, 0.0)
    for _ in range(5):
        refused = limits.reserve("both", 10, 0.0)
        assert (refused.exceeded, refused.reserved) == ("tokens", 0)
    assert refused.requests is not None and refused.requests.remaining == 2


def test_what_was_reserved_in_vain_comes_back(limits: RateLimits) -> None:
    verdict = limits.reserve("both", 600, 0.0)
    assert limits.reserve("both", 100, 0.0).exceeded == "tokens"
    limits.settle("both", verdict.reserved, 50, 0.0)
    assert limits.reserve("both", 550, 0.0).exceeded == ""


def test_what_was_used_beyond_the_reservation_is_paid_for_later(limits: RateLimits) -> None:
    verdict = limits.reserve("both", 100, 0.0)
    limits.settle("both", verdict.reserved, 1200, 0.0)
    refused = limits.reserve("both", 10, 0.0)
    assert refused.tokens is not None and refused.tokens.remaining == 0
    assert refused.wait_s == pytest.approx(61)  # 600 of debt at 10 a second, and then the 10


def test_a_request_larger_than_the_limit_waits_for_a_full_bucket_and_then_goes(limits: RateLimits) -> None:
    assert limits.reserve("both", 5000, 0.0).exceeded == ""
    assert limits.reserve("both", 5000, 60.0).exceeded == "tokens"


def test_keys_do_not_share_limits(limits: RateLimits) -> None:
    limits.reserve("requests", 1, 0.0)
    assert limits.reserve("requests", 1, 0.0).exceeded == "requests"
    assert limits.reserve("both", 1, 0.0).exceeded == ""
    assert limits.reserve("free", 10**9, 0.0).headers == {}


def test_the_headers_are_openais(limits: RateLimits) -> None:
    assert limits.reserve("both", 100, 0.0).headers == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "20s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "10s",
    }


def test_a_refusal_says_which_limit_and_when_to_come_back(limits: RateLimits) -> None:
    limits.reserve("requests", 1, 0.0)
    error = limits.reserve("requests", 1, 18.5).refusal()
    assert (error.status, error.code, error.headers["retry-after"]) == (429, "rate_limit_exceeded", "42")
    assert error.message == "this API key's limit of 1 requests per minute is reached; try again in 41.5s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1.52, "1.5s"), (59.9, "59.9s"), (360, "6m0s"), (61.4, "1m1s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
