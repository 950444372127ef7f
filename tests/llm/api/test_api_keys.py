"""API keys: read from configs, recognised in headers, and never shown."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from headrace.exceptions import ConfigError
from headrace.llm.api import ApiError, generate_api_key, hash_api_key, read_api_keys
from headrace.llm.api.api_keys import KeyRing

KEY = "sk-hr-0123456789"


def test_a_key_and_its_hash_are_the_same_entry() -> None:
    assert read_api_keys([KEY]) == read_api_keys([hash_api_key(KEY)])


def test_generated_keys_differ_and_fit_into_a_header() -> None:
    keys = {generate_api_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.isascii() and len(key) > 40 and " " not in key for key in keys)


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY.encode()},
        {b"authorization": b"bearer  " + KEY.encode()},
        {b"x-api-key": KEY.encode()},
    ],
)
def test_a_key_is_known_by_either_header(headers: dict[bytes, bytes]) -> None:
    ring = KeyRing(read_api_keys([{"key": "other"}, {"key": KEY, "name": "mine"}]))
    assert ring.identify(headers).name == "mine"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b"Basic " + KEY.encode()}, "missing_api_key"),
        ({b"authorization": b"Bearer nope"}, "invalid_api_key"),
        ({b"authorization": b"Bearer \xff\xfe"}, "invalid_api_key"),
        ({b"authorization": b"Bearer " + hash_api_key(KEY).encode()}, "invalid_api_key"),
    ],
)
def test_others_are_refused(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(ApiError) as refused:
        KeyRing(read_api_keys([KEY])).identify(headers)
    assert (refused.value.status, refused.value.code) == (401, code)


def test_neither_a_key_nor_its_hash_shows_in_a_repr_or_a_pickle() -> None:
    (key,) = read_api_keys([{"key": KEY, "name": "mine", "tokens_per_minute": 5}])
    assert repr(key) == "ApiKey(name='mine', requests_per_minute=None, tokens_per_minute=5)"
    assert KEY.encode() not in pickle.dumps(key)
    assert KEY not in repr(KeyRing([key]))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (KEY, "api_keys: must be a list of keys"),
        ([{"keyy": KEY}], r"api_keys\[0\]: unknown field 'keyy'; did you mean 'key'\?"),
        ([{"name": "a"}], r"api_keys\[0\].key: must be a key"),
        ([{"key": 5}], r"api_keys\[0\].key: must be a key"),
        (["sha256:12"], r"api_keys\[0\].key: 'sha256:' must be followed by 64"),
        ([{"key": KEY, "requests_per_minute": 0}], r"requests_per_minute: must be a whole number from 1 on, not 0"),
        ([{"key": KEY, "tokens_per_minute": 1.5}], r"tokens_per_minute: must be a whole number"),
        ([{"key": KEY, "name": ""}], r"api_keys\[0\].name"),
        ([KEY, {"key": KEY, "name": "again"}], "two entries have the same key"),
        ([{"key": "a", "name": "n"}, {"key": "b", "name": "n"}], "two entries have the same name"),
        ([5], r"api_keys\[0\]: must be a string or a mapping, not int"),
    ],
)
def test_mistakes_in_configs_are_named_without_the_key(given: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as mistake:
        read_api_keys(given)
    assert KEY not in str(mistake.value)
