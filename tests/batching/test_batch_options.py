"""What `@serve.batch` refuses, and in which words."""

from __future__ import annotations

import math

import pytest

from headrace.batching import batch
from headrace.exceptions import ConfigError


async def double(items: list[int]) -> list[int]:
    return [item * 2 for item in items]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_batch_size": 0}, ValueError),
        ({"max_batch_size": -1}, ValueError),
        ({"max_batch_size": 1.5}, TypeError),
        ({"max_batch_size": "10"}, TypeError),
        ({"max_batch_size": True}, TypeError),
        ({"batch_wait_timeout_s": -0.1}, ValueError),
        ({"batch_wait_timeout_s": math.inf}, ValueError),
        ({"batch_wait_timeout_s": math.nan}, ValueError),
        ({"batch_wait_timeout_s": "a"}, TypeError),
        ({"max_concurrent_batches": 0}, TypeError),
        ({"max_concurrent_batches": 1.0}, TypeError),
        ({"batch_size_fn": 3}, TypeError),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, object], kind: type[Exception]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(kind) as caught:
        batch(**options)(double)
    assert isinstance(caught.value, ConfigError)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, "a"])
def test_setters_check_as_the_decorator_does(value: object) -> None:
    batched = batch(double)
    with pytest.raises(ConfigError, match="max_batch_size"):
        batched.set_max_batch_size(value)
    with pytest.raises(ConfigError, match="batch_wait_timeout_s"):
        batched.set_batch_wait_timeout_s(-1)
    assert batched.get_max_batch_size() == 10
    assert batched.get_batch_wait_timeout_s() == 0.01


def test_a_whole_float_is_a_size_as_in_ray_serve() -> None:
    assert batch(max_batch_size=5.0)(double).get_max_batch_size() == 5


def test_a_misspelt_option_gets_the_nearest_name() -> None:
    with pytest.raises(TypeError, match="no option 'max_bach_size'; did you mean 'max_batch_size'"):
        batch(max_bach_size=3)


@pytest.mark.parametrize("thing", ["text", 3, dict])
def test_only_functions_can_be_batched(thing: object) -> None:
    with pytest.raises(TypeError, match="decorates functions and methods"):
        batch()(thing)


def test_a_function_without_a_parameter_for_the_batch_is_refused() -> None:
    async def nothing() -> list[int]:
        return []

    with pytest.raises(ConfigError, match="nothing needs a parameter for the batch"):
        batch(nothing)


def test_a_positional_option_in_the_place_of_the_function_is_refused() -> None:
    with pytest.raises(TypeError, match="decorates functions and methods, not 32"):
        batch(32)
