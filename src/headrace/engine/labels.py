"""Labels of machines, and what is asked of them, in Ray's notation."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SET = re.compile(r"(!?)in\((.*)\)")


def missing_label(labels: Mapping[str, str], selector: Mapping[str, str]) -> str | None:
    """The first part of a label selector that a machine does not meet, as "name=condition"; None if it meets all.

    Args:
        labels: the machine's.
        selector: label to condition: "value", "!value", "in(a,b)" or "!in(a,b)". A machine without the label meets
            the two that begin with "!".
    """
    for name, condition in selector.items():
        if not _meets(labels.get(name), condition):
            return f"{name}={condition}"
    return None


def _meets(value: str | None, condition: str) -> bool:
    among = _SET.fullmatch(condition.strip())
    if among is not None:
        negated, values = bool(among[1]), {item.strip() for item in among[2].split(",")}
        return (value in values) is not negated
    if condition.startswith("!"):
        return value != condition[1:].strip()
    return value == condition.strip()
