"""Which annotations a query string, a text body or a binary body can carry."""

from __future__ import annotations

import datetime
import decimal
import enum
import pathlib
import typing
import uuid
from typing import Any

from .signature import union_members

SCALARS = (
    str,
    int,
    float,
    bool,
    decimal.Decimal,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    uuid.UUID,
    enum.Enum,
    pathlib.PurePath,
)


def is_scalar(annotation: Any) -> bool:
    """Whether one piece of text can carry it: `str`, numbers, dates, enums, `Literal`, and unions of them."""
    members = union_members(annotation)
    return bool(members) and all(_is_scalar_member(member) for member in members)


def takes_raw_text(annotation: Any) -> bool:
    """Whether a `text/plain` body can be its value as it is: `str`, alone or in a union."""
    return str in union_members(annotation)


def takes_raw_bytes(annotation: Any) -> bool:
    """Whether an `application/octet-stream` body can be its value as it is: `bytes`, alone or in a union."""
    return bytes in union_members(annotation)


def _is_scalar_member(member: Any) -> bool:
    if typing.get_origin(member) is typing.Literal:
        return True
    return isinstance(member, type) and issubclass(member, SCALARS)
