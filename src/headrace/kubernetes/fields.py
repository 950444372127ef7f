"""Types of the options: what Kubernetes takes as a name, an amount, a number of pods."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from headrace.config.problems import shown

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|[kKMGTPE]i?|)")
_FACTORS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "K": 1e3,
    **{unit: 1000.0 ** (power + 2) for power, unit in enumerate("MGTPE")},
    **{f"{unit}i": 1024.0 ** (power + 1) for power, unit in enumerate("KMGTPE")},
}
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


def amount(quantity: str) -> float:
    """How much a quantity is: `"500m"` is 0.5, `"2Gi"` is 2 * 1024**3."""
    found = _QUANTITY.fullmatch(quantity)
    assert found is not None, quantity
    return float(found[1]) * _FACTORS[found[2]]


def fitting_name(text: str) -> str:
    """The nearest that Kubernetes takes as a name: `"Text App.v2"` is `"text-app-v2"`. May be empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").lstrip("0123456789-")


def _quantity(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}" if math.isfinite(value) and abs(value) < 1e6 else str(value)
    if not isinstance(value, str):
        return value
    found = _QUANTITY.fullmatch(value)
    if found is None or found[2] == "K":
        raise ValueError(f"must be an amount such as '500m', '4' or '16Gi', not {shown(value)}")
    if amount(value) <= 0:
        raise ValueError(f"must be more than 0, not {shown(value)}")
    return value


def _memory(value: Any) -> Any:
    value = _quantity(value)
    if isinstance(value, str) and amount(value) < 1024**2:
        raise ValueError(f"must be at least a megabyte, such as '16Gi', not {shown(value)}; is the unit missing?")
    return value


def _name(value: Any) -> Any:
    if isinstance(value, str) and not _LABEL.fullmatch(value):
        meant = fitting_name(value)
        hint = f"; '{meant}' would be one" if meant else ""
        raise ValueError(
            f"must be of lower-case letters, digits and '-', with a letter first, not {shown(value)}{hint}"
        )
    return value


def _pods(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+)(?::(\d+))?", value)
    if found is None:
        raise ValueError(f"must be a number, or the least and the most, such as '1:4', not {shown(value)}")
    least, most = int(found[1]), int(found[2] or found[1])
    if least > most:
        raise ValueError(f"the least comes first: '{most}:{least}', not {shown(value)}")
    return least, most


def _labels(value: Any) -> Any:
    if isinstance(value, Mapping):
        for key, text in value.items():
            if not _LABEL_KEY.fullmatch(str(key)) or not _LABEL_VALUE.fullmatch(str(text)):
                raise ValueError(f"{shown(f'{key}={text}')} is no label, such as 'pool=gpu'")
    return value


def _variables(value: Any) -> Any:
    if isinstance(value, Mapping):
        for name in value:
            if not _VARIABLE.fullmatch(str(name)):
                raise ValueError(f"{shown(name)} cannot be an environment variable")
    return value


def _image(value: Any) -> Any:
    if isinstance(value, str) and (not value or re.search(r"\s", value) or "://" in value):
        raise ValueError(f"must be the name of an image, such as 'my-app:1', not {shown(value)}")
    return value


Quantity = Annotated[str, BeforeValidator(_quantity)]
Memory = Annotated[str, BeforeValidator(_memory)]
DnsName = Annotated[str, BeforeValidator(_name)]
Pods = Annotated[tuple[int, int], BeforeValidator(_pods)]
"""The least and the most; written `"1:4"`, or `"2"` where both are the same."""
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
Variables = Annotated[dict[str, str], BeforeValidator(_variables)]
Image = Annotated[str, BeforeValidator(_image)]
