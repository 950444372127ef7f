"""Amounts of resources: how they are counted, and how people are told of them."""

from __future__ import annotations

from collections.abc import Mapping

PARTS = 10_000
"""Parts that one unit of a resource is counted in, as Ray counts them, so that ten tenths of a GPU are one GPU."""

ACCELERATOR = "accelerator_type:"
"""A resource named so and after a kind of accelerator says that a machine has that kind, whatever its amount."""


def parts(amount: float) -> int:
    """An amount in ten-thousandths."""
    return round(amount * PARTS)


def shown(amount: float) -> str:
    """A number without needless digits."""
    return f"{amount:g}"


def memory_shown(size: float) -> str:
    """Bytes in the unit that people would use."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def number_shown(resource: str, amount: float) -> str:
    """An amount of a resource that has been named already."""
    return memory_shown(amount) if resource == "memory" else shown(amount)


def in_words(resource: str, amount: float) -> str:
    """An amount of a resource, with its name."""
    if resource in ("CPU", "GPU"):
        return f"{shown(amount)} {resource}{'' if amount == 1 else 's'}"
    if resource == "memory":
        return f"{memory_shown(amount)} of memory"
    if resource.startswith(ACCELERATOR):
        return f"an accelerator {resource.removeprefix(ACCELERATOR)}"
    return f"{shown(amount)} of the resource '{resource}'"


def all_in_words(amounts: Mapping[str, float]) -> str:
    """Several amounts, as "4 GPUs, 8 CPUs and 2 of the resource 'disk'"."""
    words = [in_words(resource, amount) for resource, amount in amounts.items() if amount]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing"
