"""Python values to JSON bytes: msgspec where it can, a slower walk that explains itself where it cannot."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import msgspec

from ...exceptions import SerializationError

_NOT_A_LIST = (type, Iterator, bytes, bytearray, memoryview)


def encode_json(value: Any, name: str = "result") -> bytes:
    """Encodes `value` as compact JSON.

    Taken are: everything that msgspec takes (dicts, sequences, sets, dataclasses, `attrs`, structs, `datetime`,
    `UUID`, `Enum`, `Decimal` as a number, …), pydantic models (by alias), arrays and scalars of numpy, torch and others
    that have `tolist()`, pandas data frames (as records), paths, exceptions (as their text), any mapping and iterable.

    - NaN and infinities become `null`, since JSON has no word for them.
    - Bytes inside a container become base64 text.
    - Keys that are not text become text as `json.dumps` would write them (`True` becomes `"true"`).

    Args:
        value: what to encode.
        name: what an error message calls the value.

    Raises:
        SerializationError: a part cannot be encoded; the message says which and of what type.
    """
    try:
        return _encode(value)
    except Exception:
        pass
    # Off the hot path, and outside the `except`, so that errors below are not shown as "during handling of another":
    # find out what is wrong, or take a value that only needs another form.
    try:
        plain = _plain(value, name)
    except RecursionError:
        raise SerializationError(
            f"{name}: cannot turn {type(value)} into JSON: it contains itself, or is nested too deeply"
        ) from None
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()


def _enc_hook(value: Any) -> Any:
    """One step from a type that msgspec does not know to one that it does."""
    kind = type(value)
    serializer = getattr(kind, "__pydantic_serializer__", None)
    if serializer is not None:
        return msgspec.Raw(serializer.to_json(value, by_alias=True))
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):  # as a key: as values msgspec writes them without asking
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if (tolist := getattr(kind, "tolist", None)) is not None:  # numpy, torch, jax, pandas.Series, array.array
        return tolist(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, BaseException):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if kind.__module__.partition(".")[0] == "pandas" and hasattr(value, "to_dict"):
        return value.to_dict(orient="records")
    # An iterator can be read only once, and the fast path may still fail elsewhere: `_plain` reads it.
    if isinstance(value, Iterable) and not isinstance(value, _NOT_A_LIST):
        return list(value)
    raise TypeError(kind)


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook, decimal_format="number")
_encode = _encoder.encode


def _plain(value: Any, path: str) -> Any:
    """`value` made of dict, list, str, int, float, bool and None only."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, f"{path}.value")
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(
                f"{path}: this text is not valid Unicode and cannot be sent as UTF-8 ({error.reason})"
            ) from None
        return text
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_plain_key(key, path): _plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Iterator):
        return _plain(list(value), path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), f"{path}.{name}") for name in names if hasattr(value, name)}
    if isinstance(value, msgspec.Struct):
        return {
            encoded: _plain(getattr(value, name), f"{path}.{name}")
            for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        }
    stepped = value
    try:
        stepped = _enc_hook(value)
    except TypeError:  # no step: a leaf, or nothing that JSON can say
        pass
    except Exception as error:
        raise SerializationError(f"{path}: cannot turn {type(value)} into JSON ({error})") from error
    if stepped is value:
        return _decoded(value, path)
    if isinstance(stepped, msgspec.Raw):
        return json.loads(bytes(stepped))
    return _plain(stepped, path)


def _decoded(value: Any, path: str) -> Any:
    """A leaf through msgspec itself (dates, UUIDs, …), or the error that names it."""
    if not isinstance(value, type):
        try:
            return json.loads(_encode(value))
        except Exception:
            pass
    raise SerializationError(
        f"{path}: cannot turn {type(value)} into JSON. Return a str, bytes, dict, list, number, dataclass, "
        "pydantic model, array, or a Starlette Response."
    )


def _plain_key(key: Any, path: str) -> str:
    if isinstance(key, str) and not isinstance(key, Enum):
        plain = _plain(key, f"a key of {path}")
        assert isinstance(plain, str)
        return plain
    if isinstance(key, tuple | list | Mapping | frozenset):
        raise SerializationError(f"{path}: the key {key!r} is a {type(key).__name__}; JSON has only text as keys")
    text = encode_json(key, f"a key of {path}").decode()
    return text[1:-1] if text.startswith('"') else text
