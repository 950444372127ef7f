"""Ray's internal key-value store, in Headrace's namespace of it. It lives with the cluster's head.

Whoever reaches that store runs code on every machine of the cluster anyway, so the secret in it gives nothing away.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from ray.experimental import internal_kv

from headrace.exceptions import StartupError

NAMESPACE = "headrace"
"""Of the keys, and of the names of actors and placement groups."""

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def put(key: str, value: bytes) -> None:
    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=NAMESPACE)


def put_new(key: str, value: bytes) -> bool:
    """Set a key that has no value; False, and nothing changes, if it has one."""
    return not internal_kv._internal_kv_put(key, value, overwrite=False, namespace=NAMESPACE)


def get(key: str) -> bytes | None:
    value: bytes | None = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
    return value


def delete(key: str) -> None:
    internal_kv._internal_kv_del(key, namespace=NAMESPACE)


def delete_all(but: str = "") -> None:
    """Every key of the instance, except for one."""
    for key in keys(""):
        if key != but:
            delete(key)


def keys(prefix: str) -> list[str]:
    found: list[bytes] = internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)
    return [key.decode() for key in found]


def put_record(key: str, record: msgspec.Struct) -> None:
    put(key, _encoder.encode(record))


def put_new_record(key: str, record: msgspec.Struct) -> bool:
    return put_new(key, _encoder.encode(record))


def get_record(key: str, type: type[T]) -> T | None:
    """
    Raises:
        StartupError: another version of Headrace has written it, in a way that this one does not know.
    """
    value = get(key)
    if value is None:
        return None
    try:
        return msgspec.msgpack.decode(value, type=type)
    except msgspec.MsgspecError as error:
        raise StartupError(
            f"what the cluster keeps under {key!r} is of another version of Headrace ({error}): "
            "end that instance with the version that has started it"
        ) from None


def encode(value: Any) -> bytes:
    return _encoder.encode(value)
